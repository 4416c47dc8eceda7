// What each step is: a pure function of the options and the step.
#include "src/train/coordinator.h"

#include <gtest/gtest.h>

#include "src/schedule/lr_schedule.h"

namespace qat {
namespace {

TrainerOptions options() {
  TrainerOptions o;
  o.train = {.steps = 10, .batch_size = 4};
  o.quant.widths = {4, 8, 32};
  o.precision.kind = ScheduleKind::kList;
  o.precision.list = {8, 4, 32};
  o.precision.cycles = 1;
  o.precision.grad_min_bits = 6;
  o.lr = {.peak = 1.0, .min_ratio = 0.0, .warmup_steps = 2, .decay = LrDecay::kLinear};
  o.config_hash = 77;
  return o;
}

RunPosition at(std::int64_t step) { return {.step = step, .samples = 4 * step}; }

std::vector<std::int64_t> steps_with(const TrainerOptions& o, std::uint32_t dist::StepPlan::*flag) {
  const Coordinator coordinator(o, /*windows_per_epoch=*/100);
  std::vector<std::int64_t> steps;
  for (std::int64_t step = 0; step < o.train.steps; ++step)
    if (coordinator.plan(at(step)).*flag != 0) steps.push_back(step);
  return steps;
}

TEST(Coordinator, PlansWidthsRateAndIdentityOfAStep) {
  const TrainerOptions o = options();
  const Coordinator coordinator(o, 100);
  const LrSchedule rates(o.lr, 10);
  for (std::int64_t step = 0; step < 10; ++step) {
    const dist::StepPlan plan = coordinator.plan(at(step));
    const int bits = step < 4 ? 8 : step < 7 ? 4 : 32;
    EXPECT_EQ(plan.step, static_cast<std::uint64_t>(step));
    EXPECT_EQ(plan.config_hash, 77U);
    EXPECT_EQ(plan.weight_bits, bits) << step;
    EXPECT_EQ(plan.activation_bits, bits) << step;
    EXPECT_EQ(plan.gradient_bits, bits == 32 ? 32 : 6) << step;  // an unquantized step is so throughout
    EXPECT_EQ(plan.learning_rate, static_cast<float>(rates.at(step))) << step;
  }
}

TEST(Coordinator, FixedActivationBitsHoldInQuantizedStepsOnly) {
  TrainerOptions o = options();
  o.quant.activation_bits = 7;
  const Coordinator coordinator(o, 100);
  EXPECT_EQ(coordinator.plan(at(0)).activation_bits, 7);
  EXPECT_EQ(coordinator.plan(at(5)).activation_bits, 7);
  EXPECT_EQ(coordinator.plan(at(9)).activation_bits, 32);
}

TEST(Coordinator, AnEpochIsOnePassOverTheWindows) {
  TrainerOptions o = options();
  o.precision.unit = ScheduleUnit::kEpoch;
  const Coordinator coordinator(o, /*windows_per_epoch=*/16);  // 40 samples: two and a half epochs, three units
  for (std::int64_t step = 0; step < 10; ++step)
    EXPECT_EQ(coordinator.plan(at(step)).weight_bits, step < 4 ? 8 : step < 8 ? 4 : 32) << step;
}

TEST(Coordinator, EpochsAndSamplesAreCountedFromWhatWasReadWhateverTheBatchWas) {
  TrainerOptions o = options();
  o.precision.unit = ScheduleUnit::kEpoch;
  // Six steps of 4 samples, then four of 8: 56 samples, three and a half epochs of 16, four units over three widths.
  o.train.batch_size = 8;
  const Coordinator coordinator(o, 16, {.step = 6, .samples = 24});
  EXPECT_EQ(coordinator.precision().total_units(), 4);
  EXPECT_EQ(coordinator.plan({.step = 6, .samples = 24}).first_sample, 24U);
  EXPECT_EQ(coordinator.plan({.step = 7, .samples = 32}).weight_bits, coordinator.precision().at(2).weight);
}

TEST(Coordinator, EvaluatesAndSavesEverySoManyStepsAndSavesTheLast) {
  using Steps = std::vector<std::int64_t>;
  TrainerOptions o = options();
  EXPECT_EQ(steps_with(o, &dist::StepPlan::evaluate_after), Steps{});
  o.eval.every = 5, o.checkpoint.every = 4;
  EXPECT_EQ(steps_with(o, &dist::StepPlan::evaluate_after), Steps{4});  // the final table follows step 9 anyway
  EXPECT_EQ(steps_with(o, &dist::StepPlan::checkpoint_after), (Steps{3, 7, 9}));
  EXPECT_EQ(steps_with(o, &dist::StepPlan::stop_after), Steps{9});
  o.checkpoint.every = 0;
  EXPECT_EQ(steps_with(o, &dist::StepPlan::checkpoint_after), Steps{9});
}

}  // namespace
}  // namespace qat
