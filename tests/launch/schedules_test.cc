// Which widths a schedule moves between: the range test, alone and before a run, and schedules beside static widths.
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Schedules : public Cli {
 protected:
  static constexpr const char* kAuto =
      "--set precision.min_bits=auto --set precision.max_bits=auto --set range_test.steps=4 "
      "--set range_test.form=plateau --set range_test.threshold=0.0001 ";
};

TEST_F(Schedules, TheRangeTestAlonePrintsATableAndWritesItsFile) {
  const std::string options = "--set range_test.steps=4 --set range_test.threshold=0 ";
  const Outcome one = shell(program() + " prt" + tiny("one", options));
  ASSERT_EQ(one.exit_code, 0) << one.text;
  EXPECT_THAT(one.text, AllOf(HasSubstr("precision range test (accuracy): 4 steps"), HasSubstr("one/range_test.json")));
  const std::string found = content(root_ / "one/range_test.json");
  EXPECT_THAT(found, AllOf(HasSubstr("\"form\": \"accuracy\""), HasSubstr("\"loss_last\"")));
  EXPECT_EQ(steps("one"), 0U) << "it is no run";
  EXPECT_THAT(content(root_ / "one/report.html"), HasSubstr("<h3>Precision range test</h3>"));
  EXPECT_THAT(content(root_ / "one/report.md"), AllOf(HasSubstr("finished"), HasSubstr("## Precision range test")));
  EXPECT_FALSE(is_locked("one"));
  const Outcome two = shell(on_ranks(2) + " prt" + tiny("two", options));
  ASSERT_EQ(two.exit_code, 0) << two.text;
  EXPECT_EQ(content(root_ / "two/range_test.json"), found);
  const Outcome maps =
      shell(program() + " prt" + tiny("maps", "--set quant.maps='[\"8\"]' --set precision.kind=cyclic"));
  EXPECT_EQ(maps.exit_code, 2) << maps.text;
  EXPECT_THAT(maps.text, HasSubstr("leave quant.maps out"));
}

TEST_F(Schedules, ARunFindsItsBoundsFirst) {
  const Outcome run = shell(on_ranks(2) + tiny("run", kAuto));
  ASSERT_EQ(run.exit_code, 0) << run.text;
  EXPECT_THAT(run.text, HasSubstr("precision bounds "));
  EXPECT_THAT(content(root_ / "run/range_test.json"), HasSubstr("\"form\": \"plateau\""));
  const Outcome none = shell(program() + tiny("none", std::string(kAuto) + "--set range_test.threshold=1"));
  EXPECT_EQ(none.exit_code, 2) << none.text;
  EXPECT_THAT(none.text, HasSubstr("range_test.threshold = 1"));
  EXPECT_EQ(steps("none"), 0U);
}

TEST_F(Schedules, AStopDuringTheRangeTestIsObeyedAtTheNextStep) {
  const std::string options = std::string(kAuto) + "--set range_test.steps=100000";
  Process run(on_ranks(2) + tiny("run", options));
  ASSERT_TRUE(wait_for([&] { return count(run.text(), "precision range test:") > 0; }, 100.0)) << run.text();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  run.signal(SIGUSR1);
  const Outcome end = run.wait(30.0);
  EXPECT_EQ(end.exit_code, 75) << end.text;
  EXPECT_FALSE(is_locked("run"));
  EXPECT_FALSE(fs::exists(root_ / "run/range_test.json"));
  const Outcome on = shell(on_ranks(2) + tiny("run", kAuto));
  EXPECT_EQ(on.exit_code, 0) << on.text;
  EXPECT_THAT(on.text, HasSubstr("precision bounds "));
}

TEST_F(Schedules, AreComparedWithStaticWidthsAtEqualStepsAndEqualBitOps) {
  const std::string command =
      program() + " compare --launcher " + quote(source_ + "/launch/run_local.sh -n 2") + tiny("all", "--seeds 2");
  const Outcome all = shell(command);
  ASSERT_EQ(all.exit_code, 0) << all.text;
  EXPECT_THAT(all.text, AllOf(HasSubstr("equal BitOps"), HasSubstr("lowest perplexity at"),
                              HasSubstr("against the best static run"), HasSubstr("all/comparison.md")));
  const std::string found = content(root_ / "all/comparison.json");
  EXPECT_EQ(count(found, "\"schedule\":"), 8U) << "of two seeds: scheduled, two static widths, one of equal cost";
  EXPECT_EQ(count(found, "\"steps\": 20"), 6U);
  EXPECT_TRUE(fs::exists(root_ / "all/scheduled_seed1/report.json"))
      << shell("ls " + quote((root_ / "all").string())).text;
  const Outcome again = shell(command);
  EXPECT_EQ(again.exit_code, 0) << again.text;
  EXPECT_EQ(count(again.text, "this run is finished"), 8U) << "what is there is not trained again";
  const std::string table = content(root_ / "all/comparison.json");
  const Outcome other = shell(command + " --set train.steps=30");
  EXPECT_EQ(other.exit_code, 2) << other.text;
  EXPECT_THAT(other.text, AllOf(HasSubstr("scheduled_seed1 has a run of another configuration"),
                                HasSubstr("train.steps: 20 there, 30 now"), Not(HasSubstr("resuming"))));
  EXPECT_EQ(content(root_ / "all/comparison.json"), table);
  // More strategies, beside what is there.
  const Outcome more = shell(program() + " compare" + tiny("kinds", "--set train.steps=12 --kinds random,progressive"));
  ASSERT_EQ(more.exit_code, 0) << more.text;
  EXPECT_THAT(more.text, AllOf(HasSubstr("scheduled, random against the best static run"),
                               HasSubstr("scheduled, progressive against the best static run")));
  EXPECT_EQ(count(content(root_ / "kinds/comparison.json"), "\"schedule\":"), 6U);
  const Outcome lacks = shell(program() + " compare" + tiny("lacks", "--kinds random,scheduled"));
  EXPECT_EQ(lacks.exit_code, 2) << lacks.text;
  EXPECT_THAT(lacks.text, AllOf(HasSubstr("--kinds scheduled: "), HasSubstr("precision.pattern")));
  EXPECT_FALSE(fs::exists(root_ / "lacks/scheduled")) << "before the first run";
  const Outcome constant = shell(program() + " compare" + tiny("constant", "--set precision.kind=constant"));
  EXPECT_EQ(constant.exit_code, 2);
  EXPECT_THAT(constant.text, HasSubstr("there is no schedule to compare"));
  const Outcome nowhere = shell(program() + " compare --launcher /no/such/mpirun" + tiny("nowhere"));
  EXPECT_EQ(nowhere.exit_code, 2);
  EXPECT_THAT(nowhere.text, HasSubstr("/no/such/mpirun"));
}

}  // namespace
}  // namespace qat::cli
