// What every rank finds wrong is said once, with one exit code; what one rank alone finds wrong ends the others too.
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Failure : public Cli {
 protected:
  // A token file of llm.c's layout with ids 0, 1, 2, ...
  std::string tokens(const std::string& name, int count) const {
    std::vector<std::int32_t> header(256);
    header[0] = 20240520, header[1] = 1, header[2] = count;
    std::vector<std::uint16_t> ids;
    for (int i = 0; i < count; ++i) ids.push_back(static_cast<std::uint16_t>(i % 250));
    return write(name, std::string(reinterpret_cast<const char*>(header.data()), 1024) +
                           std::string(reinterpret_cast<const char*>(ids.data()), ids.size() * 2));
  }
  static std::string list(const std::string& file) { return quote("[\"" + file + "\"]"); }
  void expect_once(const Outcome& run, int exit_code, const std::string& words) const {
    EXPECT_EQ(run.exit_code, exit_code) << run.text;
    EXPECT_EQ(count(run.text, words), 1U) << run.text;
    EXPECT_EQ(count(run.text, "(exit "), 1U) << run.text;
    EXPECT_THAT(run.text, Not(HasSubstr("MPI_ABORT")));
  }
};

TEST_F(Failure, TextTooShortForASampleIsOneMessageOfAllRanks) {
  expect_once(shell(on_ranks(4) + tiny("run", "--set data.train=" + list(tokens("short.bin", 20)))), 3,
              "too little text: a sample needs 33 tokens");
}

TEST_F(Failure, AHeldOutTextOfOneTokenIsOneMessage) {
  expect_once(shell(on_ranks(2) + tiny("run", "--set eval.at_start=true --set data.val=" + list(tokens("one.bin", 1)))),
              3, "perplexity needs at least 2");
}

TEST_F(Failure, AScheduleInEpochsThatDoesNotFitIsOneMessage) {
  expect_once(shell(on_ranks(4) + tiny("run", "--set precision.unit=epoch --set precision.cycles=9")), 2,
              "precision.cycles = 9: each cycle must have at least 2 epochs");
}

TEST_F(Failure, ACheckpointOfOtherShapesIsOneMessage) {
  ASSERT_EQ(shell(program() + tiny("run", "--set train.steps=2 --set precision.cycles=1")).exit_code, 0);
  expect_once(shell(on_ranks(4) + tiny("run", "--set model.n_layer=3")), 4, "of another model than the one asked for");
}

// Found in the middle of training, by each rank on its own batches.
TEST_F(Failure, WhatStopsEveryRankWhileTrainingIsOneMessage) {
  const Outcome run = shell(
      on_ranks(4) + tiny("run",
                         "--set lr.peak=1e25 --set lr.warmup_steps=0 --set precision.kind=list --set "
                         "'precision.list=[32,8]' --set precision.cycles=10 --set quant.activation.range=calibrated "
                         "--set quant.activation.granularity=tensor"));
  EXPECT_EQ(run.exit_code, 8) << run.text;
  EXPECT_EQ(count(run.text, "calibration of"), 1U) << run.text;
  EXPECT_EQ(count(run.text, "what:"), 1U) << run.text;
  EXPECT_THAT(run.text, Not(HasSubstr("MPI_ABORT")));
}

TEST_F(Failure, WhatOneRankAloneFindsEndsTheOthers) {
  fs::create_directories(root_ / "run/logs/rank_001.log");  // where that rank wants to write
  const auto start = std::chrono::steady_clock::now();
  const Outcome run = shell("timeout 60 " + on_ranks(2) + tiny("run", "--set train.steps=100000"));
  EXPECT_EQ(run.exit_code, 2) << run.text;
  EXPECT_EQ(count(run.text, "(exit 2)"), 1U) << run.text;
  EXPECT_THAT(run.text, HasSubstr("rank_001.log"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

}  // namespace
}  // namespace qat::cli
