#include "src/report/run_comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

#include "kernels/common/error.h"
#include "src/report/loss_figures.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

ComparedRun run(const std::string& name, double perplexity, double bitops, bool is_static, std::uint64_t seed = 1) {
  return {.name = name,
          .seed = seed,
          .dir = name,
          .steps = 10,
          .bitops = bitops,
          .nll = {{4, std::log(2.0 * perplexity)}, {8, std::log(perplexity)}},
          .losses = {},
          .is_static = is_static};
}

TEST(ComparedRun, MeasuresHowSteadyARunIs) {
  ComparedRun one = run("r", 4.0, 1.0, false);
  EXPECT_NEAR(one.stability(), 1.0 / (1.0 + 0.5 * std::log(2.0)), 1e-12);  // deviation of log 4 and log 8
  for (int i = 0; i < 60; ++i) one.losses.push_back(i % 2 == 0 ? 3.0 : 5.0);
  EXPECT_FALSE(loss_figures(one.losses).settled_after.has_value());
  for (int i = 0; i < 100; ++i) one.losses.push_back(i % 2 == 0 ? 2.0 : 2.01);
  const LossFigures found = loss_figures(one.losses);
  EXPECT_EQ(found.steps, 100U);
  EXPECT_NEAR(found.mean, 2.005, 1e-12);  // of the last 100
  EXPECT_NEAR(found.deviation, 0.005, 1e-12);
  EXPECT_EQ(found.settled_after, 110) << "50 steps after the 60 that swing";
  EXPECT_EQ(loss_figures({}).steps, 0U);
  EXPECT_NEAR(fitted_slope(std::vector<double>{5.0, 3.0, 4.0, 2.0}), -0.8, 1e-12);
  EXPECT_EQ(fitted_slope(std::vector<double>{5.0}), 0.0);
}

TEST(RunComparison, SaysWhichScheduleIsBestAndWhatTheOtherCosts) {
  const std::vector<ComparedRun> runs = {run("scheduled", 10.0, 60.0, false), run("static 8 bits", 10.5, 100.0, true),
                                         run("static 3 bits", 20.0, 40.0, true)};
  EXPECT_THAT(comparison_findings(runs, 8),
              ElementsAre("lowest perplexity at 8 bits: scheduled, 10.000",
                          "scheduled against the best static run (static 8 bits, 10.500): perplexity 4.76 % lower "
                          "(10.000), BitOps 40.00 % lower"));
  EXPECT_THAT(comparison_findings(runs, 5), ElementsAre("no run has a perplexity at 5 bits"));
  const Table table = comparison_table(runs);
  EXPECT_EQ(table.rows(), 3U);
  EXPECT_THAT(table.markdown(), HasSubstr("PPL 8"));
  EXPECT_THAT(table.markdown(), HasSubstr("166.7 %"));  // 100 of 60
  const Value json = comparison_json(runs, 8);
  EXPECT_NEAR(json.at("runs").as_array()[1].at("perplexity").at("8").as_double(), 10.5, 1e-12);
  EXPECT_TRUE(json.at("runs").as_array()[1].at("static").as_bool());
}

TEST(RunComparison, TakesTheMeanOverSeeds) {
  const std::vector<ComparedRun> runs = {
      run("scheduled", 10.0, 60.0, false, 1), run("static 8 bits", 9.0, 100.0, true, 1),
      run("scheduled", 12.0, 60.0, false, 2), run("static 8 bits", 13.0, 100.0, true, 2)};
  EXPECT_THAT(comparison_findings(runs, 8),
              ElementsAre("lowest perplexity at 8 bits: scheduled, 11.000 (deviation 1.000 over 2 seeds)",
                          HasSubstr("(static 8 bits, 11.000 (deviation 2.000 over 2 seeds))")));
}

TEST(RunComparison, ReadsTheFilesOfAFinishedRun) {
  const fs::path dir = fs::temp_directory_path() / ("qat comparison " + std::to_string(getpid()));
  fs::create_directories(dir);
  std::ofstream(dir / "report.json") << R"({"step": 3, "bitops": 5e9, "bitops_ratio": 0.25, "widths": [
      {"bit_width": 8, "nll_per_token": 1.5}, {"bit_width": 3, "nll_per_token": null},
      {"bit_width": 8, "nll_per_token": 9.0, "map": "8x4"}]})";
  EXPECT_THROW(read_run("r", 1, dir, false), Error) << "without its metrics";
  std::ofstream(dir / "metrics.jsonl") << R"({"loss": 2.5, "tokens_per_s": 10.0}
{"loss": null, "tokens_per_s": 30.0}
{"loss": 2.0, "tokens_per_s": 20.0}
)";
  const ComparedRun found = read_run("r", 4, dir, true);
  EXPECT_EQ(found.steps, 3);
  EXPECT_EQ(found.bitops, 5e9);
  EXPECT_EQ(found.bitops_ratio, 0.25);
  EXPECT_EQ(found.nll, (std::map<int, double>{{8, 1.5}}));
  EXPECT_THAT(found.losses, ElementsAre(2.5, 2.0));
  EXPECT_EQ(found.tokens_per_s, 20.0);
  fs::remove_all(dir);
  EXPECT_THROW(read_run("r", 1, dir, false), Error);
}

}  // namespace
}  // namespace qat
