#include "src/schedule/lr_schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/common/error.h"

namespace qat {
namespace {

LrScheduleConfig config(double peak, double min_ratio, std::int64_t warmup, LrDecay decay) {
  return {.peak = peak, .min_ratio = min_ratio, .warmup_steps = warmup, .decay = decay};
}

TEST(LrSchedule, WarmsUpFromAFractionOfThePeakNotFromZero) {
  const LrSchedule schedule(config(1.0, 0.1, 4, LrDecay::kCosine), 100);
  EXPECT_DOUBLE_EQ(schedule.at(0), 0.25);
  EXPECT_DOUBLE_EQ(schedule.at(1), 0.5);
  EXPECT_DOUBLE_EQ(schedule.at(3), 1.0);
  EXPECT_DOUBLE_EQ(schedule.at(4), 1.0);
}

TEST(LrSchedule, CosineIsHalfWayBetweenPeakAndMinimumInTheMiddle) {
  const LrSchedule schedule(config(1.0, 0.1, 4, LrDecay::kCosine), 15);  // decays over steps 4..14
  EXPECT_NEAR(schedule.at(9), 0.55, 1e-15);
  EXPECT_NEAR(schedule.at(6), 0.1 + 0.45 * (1 + 0.80901699437494745), 1e-15);  // cos 36 degrees
  EXPECT_DOUBLE_EQ(schedule.at(14), 0.1);
  EXPECT_DOUBLE_EQ(schedule.at(1000), 0.1);
}

TEST(LrSchedule, CosineWithoutWarmUpOver4400Steps) {
  const LrSchedule schedule(config(1e-4, 0.0, 0, LrDecay::kCosine), 4401);
  EXPECT_DOUBLE_EQ(schedule.at(0), 1e-4);
  EXPECT_NEAR(schedule.at(8), 9.99992e-5, 5e-11);
  EXPECT_NEAR(schedule.at(2200), 5e-5, 1e-19);
  EXPECT_EQ(schedule.at(4400), 0.0);
}

TEST(LrSchedule, LinearAndConstant) {
  const LrSchedule linear(config(2.0, 0.5, 0, LrDecay::kLinear), 5);
  EXPECT_DOUBLE_EQ(linear.at(0), 2.0);
  EXPECT_DOUBLE_EQ(linear.at(1), 1.75);
  EXPECT_DOUBLE_EQ(linear.at(4), 1.0);
  const LrSchedule constant(config(2.0, 0.5, 2, LrDecay::kConstant), 5);
  EXPECT_DOUBLE_EQ(constant.at(0), 1.0);
  EXPECT_DOUBLE_EQ(constant.at(4), 2.0);
}

TEST(LrSchedule, TheOnlyStepAfterWarmUpIsTheLast) {
  EXPECT_DOUBLE_EQ(LrSchedule(config(1.0, 0.1, 4, LrDecay::kCosine), 5).at(4), 0.1);
  EXPECT_DOUBLE_EQ(LrSchedule(config(1.0, 0.1, 4, LrDecay::kCosine), 4).at(3), 1.0);
  EXPECT_DOUBLE_EQ(LrSchedule(config(1.0, 0.1, 0, LrDecay::kLinear), 1).at(0), 0.1);
  EXPECT_DOUBLE_EQ(LrSchedule(config(1.0, 0.1, 0, LrDecay::kLinear), 2).at(0), 1.0);
}

TEST(LrSchedule, RefusesNonsense) {
  EXPECT_THROW(LrSchedule(config(-1.0, 0.1, 0, LrDecay::kCosine), 10), Error);
  EXPECT_THROW(LrSchedule(config(INFINITY, 0.1, 0, LrDecay::kCosine), 10), Error);
  EXPECT_THROW(LrSchedule(config(1.0, -0.1, 0, LrDecay::kCosine), 10), Error);
  EXPECT_THROW(LrSchedule(config(1.0, 0.1, -1, LrDecay::kCosine), 10), Error);
  EXPECT_THROW((void)LrSchedule(config(1.0, 0.1, 0, LrDecay::kCosine), 10).at(-1), Error);
  EXPECT_EQ(LrSchedule(config(0.0, 1.0, 0, LrDecay::kCosine), 10).at(5), 0.0);  // the ends of the ranges are in them
  EXPECT_THROW(LrSchedule(config(1.0, 1.1, 0, LrDecay::kCosine), 10), Error);
  EXPECT_THROW(LrSchedule(config(1.0, 0.1, 11, LrDecay::kCosine), 10), Error);
}

// The rates of CPT's image runs, shortened: 0.1, and a tenth of it from one milestone to the next.
TEST(LrSchedule, PiecewiseStepsDownAtItsMilestones) {
  LrScheduleConfig steps = config(0.1, 0.5, 2, LrDecay::kPiecewise);
  steps.milestones = {{.step = 4, .factor = 0.1}, {.step = 6, .factor = 0.01}};
  const LrSchedule schedule(steps, 8);
  EXPECT_DOUBLE_EQ(schedule.at(0), 0.05);
  EXPECT_EQ(schedule.at(1), 0.1);
  EXPECT_EQ(schedule.at(3), 0.1);
  EXPECT_EQ(schedule.at(4), 0.1 * 0.1);
  EXPECT_EQ(schedule.at(5), 0.1 * 0.1);
  EXPECT_EQ(schedule.at(6), 0.1 * 0.01);
  EXPECT_EQ(schedule.at(100), 0.1 * 0.01);
  steps.milestones = {{.step = 2, .factor = 2.0}};
  EXPECT_EQ(LrSchedule(steps, 8).at(2), 0.2);
}

TEST(LrSchedule, SaysWhichMilestoneIsWrong) {
  const auto refusal = [](std::vector<LrMilestone> milestones) {
    LrScheduleConfig steps = config(0.1, 0.5, 2, LrDecay::kPiecewise);
    steps.milestones = std::move(milestones);
    const auto faults = lr_faults(steps, 8);
    return faults.empty() ? "" : faults[0].key + faults[0].element + " = " + faults[0].value + ": " + faults[0].rule;
  };
  EXPECT_EQ(refusal({}), "lr.milestones = []: must not be empty for lr.decay \"piecewise\"");
  EXPECT_EQ(refusal({{.step = 1}}), "lr.milestones[0].step = 1: must not be before the end of warm-up, step 2");
  EXPECT_EQ(refusal({{.step = 4}, {.step = 4}}), "lr.milestones[1].step = 4: must be above 4, the milestone before it");
  EXPECT_EQ(refusal({{.step = 8}}), "lr.milestones[0].step = 8: must be below train.steps, 8");
  EXPECT_EQ(refusal({{.step = 3, .factor = -1.0}}).substr(0, 32), "lr.milestones[0].factor = -1: mu");
  EXPECT_EQ(refusal({{.step = 7}}), "");
}

TEST(WidthFactor, IsThePresetsUnlessAWidthHasItsOwn) {
  LrScheduleConfig config;
  for (const int bits : {2, 4, 8, 16, 32}) EXPECT_EQ(width_factor(config, bits), 1.0) << bits;
  config.scale_preset = LrScale::kUp;
  const std::vector<double> up = {1.0, 4.0, 1.0, 2.0, 1.5, 1.0}, down = {0.5, 0.75, 1.0, 1.0, 1.0, 1.0};
  const std::vector<int> widths = {2, 4, 5, 8, 16, 32};
  for (std::size_t i = 0; i < widths.size(); ++i) EXPECT_EQ(width_factor(config, widths[i]), up[i]) << widths[i];
  config.scale_preset = LrScale::kDown;
  for (std::size_t i = 0; i < widths.size(); ++i) EXPECT_EQ(width_factor(config, widths[i]), down[i]) << widths[i];
  config.scale_per_width = {{.bits = 4, .factor = 0.0}, {.bits = 32, .factor = 3.0}};
  EXPECT_EQ(width_factor(config, 2), 0.5);
  EXPECT_EQ(width_factor(config, 4), 0.0);
  EXPECT_EQ(width_factor(config, 32), 3.0);
}

}  // namespace
}  // namespace qat
