#include "src/report/run_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "src/base/file.h"
#include "src/report/metrics_writer.h"
#include "src/report/run_plots.h"
#include "tests/src/base/scratch_folder.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

// A run of `steps` steps at 4 and 8 bits in turn, in a folder of that name.
fs::path make_run(const fs::path& dir, std::int64_t steps) {
  fs::create_directories(dir);
  MetricsWriter writer(dir / "metrics.jsonl", 0);
  for (std::int64_t step = 0; step < steps; ++step)
    writer.write({.step = step,
                  .loss = 5.0 - 0.01 * static_cast<double>(step),
                  .lr = 1e-3,
                  .weight_bits = step % 2 == 0 ? 4 : 8,
                  .act_bits = 8,
                  .grad_bits = 8,
                  .grad_norm = 1.0,
                  .tokens = 1000,
                  .tokens_per_s = 2000.0,
                  .step_ms = 500.0,
                  .bitops_ratio = 0.25});
  write(dir / "config.json", R"({"train": {"steps": 100}, "lr": {"peak": 0.001}})");
  write(dir / "eval.jsonl", R"({"step":10,"bits":4,"nll":2.0,"perplexity":7.389,"tokens":100})"
                            "\n"
                            R"({"step":10,"bits":8,"nll":1.5,"perplexity":4.482,"tokens":100})"
                            "\n");
  return dir;
}

std::vector<std::string> titles(const std::vector<Plot>& plots) {
  std::vector<std::string> found;
  for (const Plot& plot : plots) found.push_back(plot.title);
  return found;
}

// Of a program that wrote less: what is not there is not made up.
TEST(RunReport, OfLinesWithFewFieldsSaysNoWidth) {
  const ScratchFolder folder;
  const fs::path dir = folder.path() / "old";
  write(dir / "metrics.jsonl", "{\"step\":0,\"loss\":4.0}\n{\"step\":1,\"loss\":3.0}\n");
  write(dir / "eval.jsonl", "{\"step\":2,\"perplexity\":20.0}\n");
  const std::string text = to_markdown(read_run(dir));
  EXPECT_THAT(text, AllOf(HasSubstr("| ? "), Not(HasSubstr("32 bits |")), HasSubstr("20.000")));
  EXPECT_THAT(to_html(read_run(dir)), HasSubstr("Training loss by precision"));
}

TEST(RunReport, ReadsARunThatIsStillGoing) {
  const ScratchFolder folder;
  const fs::path dir = make_run(folder.path() / "mine", 20);
  std::ofstream(dir / "metrics.jsonl", std::ios::app) << R"({"step":20,"loss":1.0,"lr)";  // torn
  write(dir / "report.json", R"({"title": "t", "step": 10, "widths": []})");              // of an earlier end
  write(dir / "status.json", R"({"state": "running", "time": "2999-01-01T00:00:00.000Z", "checkpoint": null})");
  const RunHistory run = read_run(dir);
  EXPECT_EQ(run.steps_done(), 20);
  EXPECT_EQ(run.total_steps, 100);
  EXPECT_EQ(run.state, "running");
  EXPECT_FALSE(run.final);
  EXPECT_THAT(run.precisions(), ::testing::ElementsAre(PrecisionName{4, ""}, PrecisionName{8, ""}));
  const auto facts = run_facts(run);
  EXPECT_THAT(facts, Contains(Pair("steps", "20 of 100 (20 %)")));
  EXPECT_THAT(facts, Contains(Pair("tokens", "20.0k")));
  EXPECT_THAT(facts, Contains(Pair("time in steps", "0:10")));
  EXPECT_THAT(facts, Contains(Pair("tokens a second", "2.00k (median)")));
  EXPECT_THAT(facts, Contains(Pair("training loss", "4.9050 ± 0.0577 over the last 20 steps")));
  EXPECT_THAT(facts, Contains(Pair("loss steady after step", "-")));
  const std::string text = to_markdown(run);
  EXPECT_THAT(text,
              AllOf(HasSubstr("# Run mine: running"), HasSubstr("|    4 bits |         10 |      7.389 | 2.0000 |"),
                    HasSubstr("|    8 bits |    10 |   4.9700 |  4.8300 | 4.8100 |")));
}

TEST(RunReport, CyclesOfTheScheduleHaveARowEach) {
  const ScratchFolder folder;
  RunHistory run{.dir = folder.path(), .name = "mine", .state = "running"};
  for (int i = 0; i < 12; ++i)
    run.steps.push_back({.step = i, .loss = 6.0 - i / 4 + (i % 2 == 0 ? 0.5 : -0.5), .cycle = i / 4});
  EXPECT_THAT(to_markdown(run), AllOf(HasSubstr("## Cycles of the precision"),
                                      HasSubstr("|     3 |     4 |    4.0000 |    0.5000 | 3.5000 |"),
                                      HasSubstr("changes by -1.0000 nats a cycle and its deviation within a cycle by "
                                                "0.0000; the lowest mean is that of cycle 3.")));
  for (RecordedStep& step : run.steps) step.cycle = -1;
  EXPECT_THAT(to_markdown(run), Not(HasSubstr("Cycles")));
}

TEST(RunReport, ARunWithNoSignOfLifeIsNotRunning) {
  const ScratchFolder folder;
  const fs::path dir = make_run(folder.path() / "mine", 0);
  write(dir / "status.json", R"({"state": "running", "time": "2020-01-01T00:00:00.000Z"})");
  EXPECT_THAT(run_facts(read_run(dir)),
              Contains(Pair("state", "not running: no sign of life since 2020-01-01T00:00:00.000Z")));
  EXPECT_THAT(to_html(read_run(dir)), HasSubstr("Run mine: not running"));  // without any step
}

TEST(RunReport, AFinishedRunHasItsTable) {
  const ScratchFolder folder;
  const fs::path dir = make_run(folder.path() / "mine", 20);
  FinalReport report{.title = "Held-out perplexity", .summary = {{"steps", "20"}, {"lowest held-out loss", "2.0"}}};
  report.details = Value::object({{"step", 20}});
  WidthResult width{.weight_bits = 4, .activation_bits = 8, .nll = 200.0, .tokens_scored = 100};
  width.size = {
      .linear_bytes = 1000, .adapter_bytes = 10, .other_bytes = 500, .full_bytes = 6040, .effective_bits = 4.0};
  report.widths = {width,
                   {.weight_bits = 2, .nll = std::nan(""), .tokens_scored = 100, .error = "the loss is not finite"}};
  const std::string console = write_final_report(dir, report);
  const RunHistory run = read_run(dir);
  ASSERT_TRUE(run.final);
  EXPECT_EQ(run.state, "finished");
  EXPECT_EQ(run.final->title, report.title);
  EXPECT_EQ(run.final->summary, report.summary);
  EXPECT_EQ(width_table(run.final->widths).ascii(), width_table(report.widths).ascii());
  const std::string text = to_markdown(run);
  EXPECT_THAT(text, AllOf(HasSubstr("# Held-out perplexity\n"), HasSubstr(width_table(report.widths).markdown()),
                          HasSubstr("- 2 bits: the loss is not finite"), HasSubstr("lowest held-out loss"),
                          HasSubstr("## Training loss by precision")));
  const std::string page = to_html(run);
  EXPECT_THAT(page,
              AllOf(HasSubstr("<td class=\"number\">7.389</td>"), Not(HasSubstr("<script")), Not(HasSubstr("http"))));
}

TEST(RunReport, APlotForWhatTheRunHas) {
  const ScratchFolder folder;
  const fs::path dir = make_run(folder.path() / "mine", 20);
  EXPECT_THAT(titles(plots_of(read_run(dir))),
              ::testing::ElementsAre("Training loss by precision", "Held-out perplexity by precision",
                                     "Schedule of widths", "Learning rate", "Gradient norm", "Speed"));
  std::ofstream(dir / "eval.jsonl", std::ios::app) << R"({"step":20,"bits":4,"nll":1.0,"perplexity":2.718,"tokens":9})"
                                                   << "\n";
  write(dir / "layers.jsonl",
        R"({"step":0,"precision":"4","layers":[{"name":"h.0","bits":4,"grad_norm":0.5,"zero_codes":0.1,"clipped":0}]})"
        "\n"
        R"({"step":1,"precision":"4","layers":[{"name":"h.0","bits":4,"grad_norm":1.5,"zero_codes":null,"clipped":0}]})"
        "\n");
  write(dir / "range_test.json", R"({"widths": [{"bits": 2, "gain": 0.01}, {"bits": 4, "gain": 0.3}], "min_bits": 4,
                                     "max_bits": 8, "threshold": 0.1})");
  const std::vector<Plot> plots = plots_of(read_run(dir));
  EXPECT_THAT(titles(plots), AllOf(Contains("Held-out perplexity over the run"), Contains("Precision range test")));
  EXPECT_EQ(plots.back().series.size(), 4U);
  EXPECT_EQ(plots.back().series.back().points, (std::vector<std::pair<double, double>>{{2, 0.01}, {4, 0.3}}));
  EXPECT_THAT(run_facts(read_run(dir)), Contains(Pair("precision range test", "4 to 8 bits")));
  EXPECT_THAT(to_markdown(read_run(dir)), HasSubstr("|    4 | -        | 0.3000 |"));
  write(dir / "range_test.json", R"({"form": "plateau", "widths": [{"bits": 2, "gain": 0.5, "loss_gain": 0.25}]})");
  EXPECT_EQ(plots_of(read_run(dir)).back().series.back().points.at(0), std::pair(2.0, 0.25));
  const auto layers =
      std::find_if(plots.begin(), plots.end(), [](const Plot& one) { return one.title == "Gradient norm by layer"; });
  ASSERT_NE(layers, plots.end());
  EXPECT_EQ(layers->series.at(0).points.at(0), std::pair(0.0, 1.0));  // the mean
  EXPECT_EQ(plots.front().series.at(0).name, "4 bits");
  EXPECT_EQ(plots.front().series.at(0).points.size(), 10U);
}

TEST(RunReport, OfARangeTestAlone) {
  const ScratchFolder folder;
  const fs::path dir = folder.path() / "prt";
  write(dir / "range_test.json", R"({"form": "accuracy", "threshold": 0.4, "min_bits": null, "max_bits": null,
      "widths": [{"bits": 4, "accuracy_first": 0.125, "accuracy_last": 0.425, "gain": 0.3, "loss_first": 4.0,
                  "loss_last": 3.0, "loss_gain": 0.25}]})");
  const RunHistory run = read_run(dir);
  EXPECT_THAT(titles(plots_of(run)), ::testing::ElementsAre("Precision range test"));
  EXPECT_THAT(run_facts(run), Contains(Pair("precision range test", "no width passes the threshold")));
  EXPECT_THAT(to_markdown(run), AllOf(HasSubstr("| 0.1250 to 0.4250 | 0.3000 |"), Not(HasSubstr("Training loss"))));
}

TEST(RunReport, SeveralRunsAreSideBySide) {
  const ScratchFolder folder;
  const fs::path a = make_run(folder.path() / "a", 20), b = make_run(folder.path() / "b", 10);
  write(b / "config.json", R"({"train": {"steps": 100}, "lr": {"peak": 0.002}})");
  fs::remove(b / "eval.jsonl");
  const std::vector<RunHistory> runs = {read_run(a), read_run(b)};
  const std::string text = to_markdown(runs);
  EXPECT_THAT(text, AllOf(HasSubstr("# 2 runs side by side"), HasSubstr("|   4 bits | 7.389 | -   |"),
                          HasSubstr("| lr.peak | 0.001 | 0.002 |"), Not(HasSubstr("train.steps"))));
  write_run_report(runs, folder.path() / "both.html");
  EXPECT_EQ(read_file(folder.path() / "both.md"), text);
  EXPECT_THAT(read_file(folder.path() / "both.html"), AllOf(HasSubstr("</html>"), HasSubstr("Training loss")));
  EXPECT_THROW(write_run_report(runs, folder.path() / "both.md"), Error);
  for (const Plot& plot : plots_of(runs)) EXPECT_LE(plot.series.size(), 2U) << plot.title;
}

TEST(RunReport, AFolderWithoutRecordsIsAnError) {
  const ScratchFolder folder;
  EXPECT_THAT([&] { read_run(folder.path()); },
              ::testing::ThrowsMessage<Error>(AllOf(HasSubstr(folder.path().string()), HasSubstr("metrics.jsonl"))));
}

TEST(RunReport, ALongRunMakesASmallPage) {
  const ScratchFolder folder;
  RunHistory run = read_run(make_run(folder.path() / "mine", 20));
  const RecordedStep step = run.steps.front();
  run.steps.clear();
  for (int i = 0; i < 300000; ++i) {
    run.steps.push_back(step);
    run.steps.back().step = i;
    run.steps.back().losses = {{{.bits = 2 + i % 7}, std::sin(i * 0.37)}};
  }
  EXPECT_LT(to_html(run).size(), 1500000U);
}

}  // namespace
}  // namespace qat
