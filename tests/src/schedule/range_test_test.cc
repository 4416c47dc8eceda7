#include "src/schedule/range_test.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace qat {
namespace {

using ::testing::HasSubstr;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

WidthTrial trial(int bits, double gain, double loss_last, std::int64_t skipped = 0) {
  return {.bits = bits,
          .accuracy_first = 0.25,
          .accuracy_last = 0.25 + gain,
          .loss_first = 4.0,
          .loss_last = loss_last,
          .skipped = skipped};
}

RangeTestResult chosen(const RangeTestConfig& config, std::vector<WidthTrial> trials) {
  RangeTestResult result{.steps = config.steps, .trials = std::move(trials)};
  choose_bounds(config, result);
  return result;
}

TEST(RangeTest, MeansAreOverTheEndsOfATrial) {
  EXPECT_EQ(averaged_steps(100), 20);
  EXPECT_EQ(averaged_steps(41), 20);
  EXPECT_EQ(averaged_steps(9), 4);
  EXPECT_EQ(averaged_steps(2), 1);
}

TEST(RangeTest, TheFirstWidthWhoseAccuracyGainsEnoughIsTheLowerBound) {
  const std::vector<WidthTrial> trials = {trial(2, -0.125, 4.0), trial(3, 0.0078125, 3.9), trial(4, 0.0625, 3.5),
                                          trial(6, 0.125, 3.0), trial(8, 0.125, 3.0)};
  const RangeTestResult all = chosen({}, trials);
  EXPECT_EQ(all.min_bits, 4);
  EXPECT_EQ(all.max_bits, 8);
  EXPECT_EQ(chosen({.threshold = 0.0625}, trials).min_bits, 6) << "more than the threshold";
  EXPECT_EQ(chosen({.target_bits = 3}, trials).max_bits, 6) << "at most 7";
  EXPECT_EQ(chosen({.target_bits = 4}, trials).max_bits, 8);
  EXPECT_EQ(chosen({.threshold = 0.1, .target_bits = 2}, {trials.begin() + 2, trials.end()}).max_bits, 6);
  EXPECT_EQ(chosen({.threshold = 0.0625, .target_bits = 1}, trials).max_bits, 6) << "not below the lower bound";
}

TEST(RangeTest, TheOtherFormGoesByTheLossAndEndsWhereItLevelsOff) {
  // Falls of 0, 1 %, 12.5 %, 25 % and 25.5 %; the next width saves 1 %, 12 %, 14 %, 0.7 %.
  const std::vector<WidthTrial> trials = {trial(2, 0.5, 4.0), trial(3, 0.5, 3.96), trial(4, 0.5, 3.5),
                                          trial(6, 0.5, 3.0), trial(8, 0.5, 2.98)};
  const RangeTestConfig config{.form = RangeTestForm::kPlateau, .threshold = 0.02};
  EXPECT_EQ(chosen(config, trials).min_bits, 4);
  EXPECT_EQ(chosen(config, trials).max_bits, 6);
  RangeTestConfig strict = config;
  strict.plateau = 0.2;
  EXPECT_EQ(chosen(strict, trials).max_bits, 4);
  strict.plateau = 0.001;
  EXPECT_EQ(chosen(strict, trials).max_bits, 8);
}

TEST(RangeTest, AWidthThatComesApartDoesNotPass) {
  EXPECT_EQ(chosen({}, {trial(2, 0.5, 2.0, 1), trial(3, 0.5, kNaN), trial(4, kNaN, 2.0), trial(8, 0.5, 2.0)}).min_bits,
            8);
  const RangeTestResult none = chosen({}, {trial(2, 0.001, 4.0), trial(8, 0.005, 3.9)});
  EXPECT_EQ(none.min_bits, 0);
  EXPECT_EQ(none.max_bits, 0);
  EXPECT_THAT(nothing_passed_text(none), HasSubstr("range_test.threshold = 0.01: the most is 0.005, at 8 bits"));
  EXPECT_THAT(range_test_text(none), HasSubstr("no width passes the threshold"));
}

TEST(RangeTest, SaysWhatItMeasuredAndMarksTheThreshold) {
  RangeTestResult result{.steps = 50, .trials = {trial(3, 0.0, 4.0), trial(8, 0.0390625, 3.0, 2), trial(9, 0.02, 3.0)}};
  choose_bounds({.threshold = 0.01953125}, result);
  const std::string text = range_test_text(result);
  EXPECT_THAT(text, HasSubstr("50 steps at each width, means of the first and last 20"));
  EXPECT_THAT(text, HasSubstr("     3  0.2500 to 0.2500   +0.0000   4.0000 to  4.0000    +0.00 %  "
                              "                    |                   \n"));
  EXPECT_THAT(text, HasSubstr("     8  0.2500 to 0.2891   +0.0391   4.0000 to  3.0000   +25.00 %  "
                              "####################|################### 2 skipped\n"));
  EXPECT_THAT(text, HasSubstr("bounds: precision.min_bits 9, precision.max_bits 9\n"));
}

TEST(RangeTest, ItsFileHoldsEveryNumber) {
  RangeTestResult result{.steps = 7, .begin = 3, .trials = {trial(3, 0.1, 1.0 / 3.0), trial(8, 0.7, 2.0, 2)}};
  choose_bounds({.form = RangeTestForm::kPlateau, .threshold = 0.1, .plateau = 0.3}, result);
  ASSERT_EQ(result.min_bits, 3);
  EXPECT_EQ(range_test_from_json(range_test_json(result), "here"), result);
  EXPECT_EQ(range_test_from_json(range_test_json(result, 2), "here"), result);
  result.trials[0].accuracy_last = kNaN;
  choose_bounds({.threshold = 0.9}, result);
  const RangeTestResult again = range_test_from_json(range_test_json(result), "here");
  EXPECT_TRUE(std::isnan(again.trials[0].accuracy_last));
  EXPECT_EQ(again.min_bits, 0);
}

}  // namespace
}  // namespace qat
