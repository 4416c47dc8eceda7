// Whole runs by every recipe that trains several widths in a step.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

using test::TrainerTest;
namespace fs = std::filesystem;

class RecipeRun : public TrainerTest {
 protected:
  TrainerOptions with(Recipe recipe, const std::string& dir, std::int64_t steps = 6) const {
    TrainerOptions o = options(dir, steps);
    o.train.recipe = recipe;
    o.quant.widths = {8, 3, 32};
    o.eval.bits = {32, 8, 3};
    return o;
  }
  // The losses of a run's steps: of its passes, step by step.
  std::vector<std::vector<double>> losses(const std::string& dir) const {
    std::ifstream in(root_ / dir / "metrics.jsonl");
    std::vector<std::vector<double>> all;
    for (std::string line; std::getline(in, line);) {
      const Value value = parse_json(line, "metrics");
      all.emplace_back();
      std::vector<std::int64_t> bits;
      for (const Value& pass : value.at("passes").as_array()) {
        bits.push_back(pass.at("weight_bits").as_int());
        all.back().push_back(pass.at("loss").as_double());
      }
      EXPECT_THAT(bits, ::testing::ElementsAre(8, 3, 32));
      const double mean = (all.back()[0] + all.back()[1] + all.back()[2]) / 3;
      EXPECT_NEAR(value.at("loss").as_double(), mean, 1e-12);
    }
    return all;
  }
};

TEST_F(RecipeRun, PerMapHasTheSameBitsOnOneTwoAndFourRanks) {
  const End one = train(with(Recipe::kPerMap, "1"), 1);
  EXPECT_TRUE(one.result.finished);
  const auto want = losses("1");
  ASSERT_EQ(want.size(), 6U);
  EXPECT_LT(want[0][2], want[0][0]) << "the third update sees what the first two have learnt";
  EXPECT_LT(want[5][0], want[0][0]);
  for (const int ranks : {2, 4}) {
    EXPECT_EQ(train(with(Recipe::kPerMap, std::to_string(ranks)), ranks).parameters, one.parameters) << ranks;
    EXPECT_EQ(losses(std::to_string(ranks)), want) << ranks;
  }
}

TEST_F(RecipeRun, SpnetAgreesToRoundingOnOneTwoAndFourRanks) {
  train(with(Recipe::kSpnet, "1"), 1);
  const auto want = losses("1");
  ASSERT_EQ(want.size(), 6U);
  for (int pass = 0; pass < 3; ++pass) EXPECT_LT(want[5][pass], want[0][pass]) << "all widths learn";
  for (const int ranks : {2, 4}) {
    const std::string dir = std::to_string(ranks);
    train(with(Recipe::kSpnet, dir), ranks);
    const auto got = losses(dir);
    ASSERT_EQ(got.size(), 6U);
    EXPECT_EQ(got[0], want[0]) << ranks;
    for (std::size_t step = 1; step < 6; ++step)
      for (std::size_t pass = 0; pass < 3; ++pass) EXPECT_NEAR(got[step][pass], want[step][pass], 0.02) << ranks;
  }
}

TEST_F(RecipeRun, AResumedRunIsTheUninterruptedOne) {
  for (const Recipe recipe : {Recipe::kSpnet, Recipe::kPerMap}) {
    const std::string name(enum_name(recipe));
    TrainerOptions whole = with(recipe, name + " whole");
    whole.checkpoint.every = 3, whole.checkpoint.keep = 0;
    const End end = train(whole, 2);
    const TrainerOptions rest = with(recipe, name + " rest");
    fs::create_directories(fs::path(rest.run.dir) / "checkpoints");
    fs::copy(fs::path(whole.run.dir) / "checkpoints/step_00000003",
             fs::path(rest.run.dir) / "checkpoints/step_00000003", fs::copy_options::recursive);
    EXPECT_EQ(train(rest, 2).parameters, end.parameters) << name;
  }
}

TEST_F(RecipeRun, CalibratesEveryWidthOfTheFirstStep) {
  TrainerOptions o = with(Recipe::kSpnet, "calibrated", 2);
  o.quant.calibration_batches = 2;
  const End end = train(o, 2, {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated});
  EXPECT_TRUE(end.result.finished);
  EXPECT_EQ(losses("calibrated").size(), 2U);
}

// One update in three is skipped for good; the run is none of skipped steps.
TEST_F(RecipeRun, AStepWithOneSkippedUpdateIsNotASkippedStep) {
  TrainerOptions o = with(Recipe::kPerMap, "run", 6);
  o.train.max_skips = 2;
  const End end = train(o, 2, {.granularity = Granularity::kToken}, [](Trainer& trainer) {
    trainer.runner().set_loss_hook(
        [calls = 0](std::int64_t, double loss) mutable { return calls++ % 3 == 1 ? std::nan("") : loss; });
  });
  EXPECT_TRUE(end.result.finished);
  EXPECT_EQ(end.state.skips_total, 0);
  EXPECT_THAT(read("run", "logs/rank_000.log"), ::testing::HasSubstr("skip its update 2 of 3, that at 3 bits"));
}

}  // namespace
}  // namespace qat
