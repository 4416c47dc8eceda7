#include "src/config/sweep_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "kernels/common/error.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SweepFile : public ::testing::Test {
 protected:
  SweepPlan read(const std::string& text, const std::vector<std::string>& more = {}) {
    std::ofstream(path_) << text;
    return read_sweep(path_, more);
  }
  std::string error(const std::string& text) {
    try {
      read(text);
    } catch (const Error& thrown) {
      EXPECT_EQ(thrown.kind(), ErrorKind::kConfig);
      return thrown.what();
    }
    return "nothing";
  }
  void TearDown() override { std::filesystem::remove(path_); }

  const std::filesystem::path path_ =
      std::filesystem::temp_directory_path() / ("sweep_" + std::to_string(::getpid()) + ".json");
};

TEST_F(SweepFile, IsEveryCombinationTheLastKeyTurningFastest) {
  const SweepPlan sweep = read(R"({"runs_dir": "runs/s", "fixed": {"train.steps": 20},
                              "set": {"lr.peak": [1e-3, 2e-3], "quant.widths": [[3, 4, 8], [3, 8]]}})",
                               {"run.seed=7"});
  EXPECT_THAT(sweep.keys, ElementsAre("lr.peak", "quant.widths"));
  ASSERT_EQ(sweep.runs.size(), 4U);
  EXPECT_EQ(sweep.runs[1].dir.filename(), sweep.runs[1].name);
  EXPECT_THAT(sweep.runs[0].sets, ElementsAre("train.steps=20", "run.seed=7", "lr.peak=0.001", "quant.widths=[3,4,8]",
                                              "run.dir=runs/s/" + sweep.runs[0].name));
  EXPECT_EQ(sweep.runs[1].values[0].second, "0.001");
  EXPECT_EQ(sweep.runs[1].values[1].second, "[3,8]");
  EXPECT_EQ(sweep.runs[2].values[0].second, "0.002");
  EXPECT_EQ(sweep.runs[3].name.find_first_of(" []\"'/"), std::string::npos);
}

TEST_F(SweepFile, WhatIsWrongIsSaidBeforeTheFirstRun) {
  const auto with = [](const std::string& set) { return R"({"runs_dir": "r", "set": )" + set + "}"; };
  EXPECT_THAT(error(with(R"({"lr.peek": [1]})")), AllOf(HasSubstr("run lr.peek=1 of the sweep"), HasSubstr("lr.peek")));
  EXPECT_THAT(error(with(R"({"train.steps": [100, -1]})")),
              AllOf(HasSubstr("train.steps=-1"), HasSubstr("train.steps")));
  EXPECT_THAT(error(with("{}")), HasSubstr("set is empty"));
  EXPECT_THAT(error(with(R"({"lr.peak": 1})")), HasSubstr("set.lr.peak: expected a list of values"));
  EXPECT_THAT(error(with(R"({"lr.peak": []})")), HasSubstr("set.lr.peak: expected a list of values"));
  EXPECT_THAT(error(with(R"({"run.dir": ["a"]})")), HasSubstr("set.run.dir"));
  EXPECT_THAT(error(with(R"({"lr.peak": [1e-3, 0.001]})")), HasSubstr("two runs are the same"));
  EXPECT_THAT(error(R"({"set": {"lr.peak": [1]}})"), HasSubstr("runs_dir"));
  EXPECT_THAT(error(R"({"runs_dir": "r", "sets": {}})"), HasSubstr("unknown key \"sets\""));
}

}  // namespace
}  // namespace qat
