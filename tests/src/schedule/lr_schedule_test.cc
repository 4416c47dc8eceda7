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
