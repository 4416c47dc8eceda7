// What a run leaves for people: start-up blocks, progress lines, report.html; and `qat_dist report`.
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Report : public Cli {
 protected:
  fs::path dir(const std::string& name) const { return root_ / name; }
  std::string folder(const std::string& name) const { return quote((root_ / name).string()); }
};

TEST_F(Report, ARunSaysWhatItIsAndLeavesAReport) {
  const Outcome run = shell(on_ranks(2) + tiny("a", "--set eval.every=10 --set report.layers_every=5"));
  ASSERT_EQ(run.exit_code, 0) << run.text;
  for (const char* block : {"[Options]\n  run.dir=", "[System]\n  qat_dist ", "[Data]\n  ",
                            "[Memory]\n  memory of a rank", "[Layout]\n  GPT-2 2 layers"})
    EXPECT_EQ(count(run.text, block), 1U) << block << run.text;
  EXPECT_THAT(run.text, AllOf(HasSubstr("lora.rank=4"), Not(HasSubstr("model.n_layer=")), HasSubstr("2 ranks (mpi)")));
  EXPECT_THAT(run.text, HasSubstr("step 1/20  cycle 1/4   0 %  4 bits  loss "));
  EXPECT_THAT(run.text, HasSubstr("step 20/20  cycle 4/4  80 %  8 bits  loss "));
  const std::string page = content(dir("a") / "report.html"), text = content(dir("a") / "report.md");
  for (const char* plot :
       {"Training loss by precision", "Held-out perplexity by precision", "Held-out perplexity over the run",
        "Schedule of widths", "Learning rate", "Gradient norm", "Speed", "Memory of rank 0", "Gradient norm by layer"})
    EXPECT_EQ(count(page, "<h3>" + std::string(plot) + "</h3>"), 1U) << plot;
  EXPECT_THAT(page,
              AllOf(Not(HasSubstr("<script")), Not(HasSubstr("http")), Not(HasSubstr("Mnan")), HasSubstr("</html>")));
  EXPECT_THAT(text, AllOf(HasSubstr("| state "), HasSubstr("finished"), HasSubstr("20 of 20 (100 %)"),
                          HasSubstr("## Held-out text at every width"), HasSubstr("## Training loss by precision"),
                          HasSubstr("## Cycles of the precision"), HasSubstr("| training loss ")));
  // Again, from the folder alone.
  fs::remove(dir("a") / "report.html");
  const Outcome again = shell(program() + " report " + folder("a"));
  EXPECT_EQ(again.exit_code, 0) << again.text;
  EXPECT_EQ(content(dir("a") / "report.html"), page);
  EXPECT_THAT(again.text, HasSubstr(text));
}

TEST_F(Report, AStoppedRunAndAKilledOneHaveReportsToo) {
  {
    Process run(on_ranks(1) + tiny("stopped", "--set train.steps=100000"));
    ASSERT_TRUE(wait_for([&] { return steps("stopped") > 2; })) << run.text();
    run.signal(SIGTERM);
    EXPECT_EQ(run.wait().exit_code, 75);
  }
  EXPECT_THAT(content(dir("stopped") / "report.html"), HasSubstr("Run stopped: stopped"));
  EXPECT_THAT(content(dir("stopped") / "report.md"), HasSubstr("of 100000 (0 %)"));
  {
    Process run(program() + tiny("killed", "--set train.steps=100000"));
    ASSERT_TRUE(wait_for([&] { return steps("killed") > 2; })) << run.text();
    const Outcome going =
        shell(program() + " report " + folder("killed") + " -o " + quote((root_ / "now.html").string()));
    EXPECT_EQ(going.exit_code, 0) << going.text;
    EXPECT_THAT(going.text, HasSubstr("# Run killed: running"));
    run.signal(SIGKILL);
    run.wait();
  }
  EXPECT_FALSE(fs::exists(dir("killed") / "report.html"));
  std::ofstream(dir("killed") / "metrics.jsonl", std::ios::app) << "{\"step\":999999,\"lo";
  const Outcome both =
      shell("cd " + quote(root_.string()) + " && " + program() + " report killed stopped --out both.html");
  EXPECT_EQ(both.exit_code, 0) << both.text;
  EXPECT_THAT(both.text, AllOf(HasSubstr("# 2 runs side by side"), HasSubstr("| killed"), HasSubstr("both.html")));
  EXPECT_THAT(content(root_ / "both.html"), AllOf(HasSubstr(">killed</span>"), HasSubstr(">stopped</span>")));
  EXPECT_EQ(content(root_ / "both.md") + "\nboth.html\n", both.text);
}

TEST_F(Report, WhatIsNoRunFolderIsAUsageError) {
  const Outcome none = shell(program() + " report " + folder("nowhere"));
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_THAT(none.text,
              AllOf(HasSubstr("nowhere is no run folder"), HasSubstr("no metrics.jsonl, nor range_test.json")));
  EXPECT_EQ(shell(program() + " report").exit_code, 2);
}

}  // namespace
}  // namespace qat::cli
