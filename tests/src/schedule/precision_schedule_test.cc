#include "src/schedule/precision_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>

#include "kernels/common/error.h"
#include "src/schedule/schedule_rules.h"
#include "tests/src/schedule/schedule_test_tools.h"

namespace qat {
namespace {

using testing::curve;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::kAll;
using testing::refusal;

std::vector<int> weights(const PrecisionSchedule& schedule, std::int64_t count, std::int64_t from = 0,
                         std::int64_t stride = 1) {
  std::vector<int> bits;
  for (std::int64_t i = 0; i < count; ++i) bits.push_back(schedule.at(from + i * stride).weight);
  return bits;
}

TEST(PrecisionSchedule, RisesAsInThePaperAndJumpsBack) {
  const PrecisionSchedule sixteen(curve("cosine", "rise", 3, 8, 2), kAll, 32);
  // Unit 8 is exactly 5.5: half to even gives 6.
  EXPECT_THAT(weights(sixteen, 17), ElementsAre(3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 6, 7, 7, 8, 8, 8, 3));
  const PrecisionSchedule ten(curve("cosine", "rise", 3, 8, 2), kAll, 20);
  EXPECT_THAT(weights(ten, 11), ElementsAre(3, 3, 3, 4, 5, 6, 6, 7, 8, 8, 3));
}

TEST(PrecisionSchedule, RiseHasWholeCyclesAndBeginsAnotherWithTheRest) {
  const PrecisionSchedule schedule(curve("cosine", "rise", 3, 8, 3), kAll, 32);  // Tn = int(32 / 3) = 10, 2 left over
  EXPECT_THAT(weights(schedule, 3, 30), ElementsAre(3, 3, 3));
  EXPECT_EQ(weights(schedule, 10, 0), weights(schedule, 10, 20));
}

TEST(PrecisionSchedule, SaysWhereInItsCyclesAUnitIs) {
  const auto text = [](const PrecisionSchedule& schedule, std::int64_t unit) {
    const auto phase = schedule.phase(unit);
    return phase ? std::to_string(phase->cycle) + "/" + std::to_string(phase->cycles) + " " +
                       std::to_string(std::llround(100.0 * phase->share))
                 : std::string("none");
  };
  const PrecisionSchedule rise(curve("cosine", "rise", 3, 8, 3), kAll, 32);
  EXPECT_EQ(text(rise, 0), "0/3 0");
  EXPECT_EQ(text(rise, 19), "1/3 90");
  EXPECT_EQ(text(rise, 31), "3/4 10");  // what is left over
  const PrecisionSchedule full(curve("cosine", "full", 3, 8, 3), kAll, 32);
  EXPECT_EQ(text(full, 11), "1/3 3");
  PrecisionScheduleConfig config = curve("cosine", "fall", 3, 8, 2);
  config.warmup_steps = 4;
  const PrecisionSchedule fall(config, kAll, 24);
  EXPECT_EQ(text(fall, 3), "none");
  EXPECT_EQ(text(fall, 4), "0/2 0");
  EXPECT_EQ(text(fall, 19), "1/2 50");
  EXPECT_EQ(text(PrecisionSchedule(curve("constant", "", 3, 8, 3), kAll, 32), 5), "none");
}

TEST(PrecisionSchedule, RoundsHalfToEvenWhereTheCosineIsRational) {
  // A third of the way 3..5 is exactly 3.5, and 4..6 exactly 4.5: both become 4.
  EXPECT_EQ(PrecisionSchedule(curve("cosine", "rise", 3, 5, 1), kAll, 3).at(1).weight, 4);
  EXPECT_EQ(PrecisionSchedule(curve("cosine", "rise", 4, 6, 1), kAll, 3).at(1).weight, 4);
  EXPECT_EQ(PrecisionSchedule(curve("cosine", "rise", 4, 6, 1), kAll, 3).at(2).weight, 6);  // 5.5
}

TEST(PrecisionSchedule, FullCosineSnapsToTheConfiguredWidths) {
  const PrecisionSchedule coarse(curve("cosine", "full", 4, 8, 15), {4, 6, 8}, 150);
  EXPECT_THAT(weights(coarse, 11), ElementsAre(4, 4, 6, 6, 8, 8, 8, 6, 6, 4, 4));
  const PrecisionSchedule fine(curve("cosine", "full", 5, 9, 15), kAll, 150);
  EXPECT_THAT(weights(fine, 11), ElementsAre(5, 5, 6, 8, 9, 9, 9, 8, 6, 5, 5));
  const PrecisionSchedule wide(curve("cosine", "full", 2, 32, 15), kAll, 150);
  EXPECT_THAT(weights(wide, 10), ElementsAre(2, 5, 12, 18, 32, 32, 32, 18, 12, 5));
}

TEST(PrecisionSchedule, FullCosineCyclesNeedNotBeWhole) {
  // 25 units in 2 cycles: unit 13 is half a unit into the second cycle, x = 1/25.
  const PrecisionSchedule schedule(curve("cosine", "full", 2, 18, 2), kAll, 25);
  EXPECT_EQ(schedule.at(12).weight, 2);   // x = 24/25: 2 + 8 (1 - cos(2 pi / 25)) = 2.25
  EXPECT_EQ(schedule.at(13).weight, 2);   // x = 1/25, its mirror image
  EXPECT_EQ(schedule.at(6).weight, 18);   // x = 12/25: 17.94
  EXPECT_EQ(schedule.at(19).weight, 18);  // x = 13/25
  EXPECT_EQ(schedule.at(3).weight, 9);    // x = 6/25: 2 + 8 (1 - cos(12 pi / 25)) = 9.498
  EXPECT_EQ(schedule.at(25).weight, schedule.at(0).weight);
}

TEST(PrecisionSchedule, FallStartsAtMaxAfterItsWarmUp) {
  PrecisionScheduleConfig config = curve("cosine", "fall", 4, 16, 4);
  config.warmup_steps = 50;
  const PrecisionSchedule schedule(config, kAll, 50 + 4 * 200);
  EXPECT_EQ(weights(schedule, 50), std::vector<int>(50, 16));
  EXPECT_THAT(weights(schedule, 11, 50, 20), ElementsAre(16, 16, 15, 14, 12, 10, 8, 6, 5, 4, 16));
}

TEST(PrecisionSchedule, TriangularGoesUpAndDownInStraightLines) {
  const PrecisionSchedule fine(curve("triangular", "", 2, 8, 2), kAll, 20);
  EXPECT_THAT(weights(fine, 11), ElementsAre(2, 3, 4, 6, 7, 8, 7, 6, 4, 3, 2));
  const PrecisionSchedule coarse(curve("triangular", "", 4, 8, 2), {4, 6, 8}, 20);
  EXPECT_THAT(weights(coarse, 11), ElementsAre(4, 4, 6, 6, 8, 8, 8, 6, 6, 4, 4));
}

// The ten schedules of arXiv:2403.02243 and their mirror images, 3 to 8, from the formulas.
TEST(PrecisionSchedule, ProfilesRiseAndFallByTheirFormulas) {
  const auto rise = [](const char* kind) { return weights({curve(kind, "rise", 3, 8, 2), kAll, 20}, 11); };
  EXPECT_THAT(rise("linear"), ElementsAre(3, 4, 4, 4, 5, 6, 6, 6, 7, 8, 3));
  EXPECT_THAT(rise("cosine"), ElementsAre(3, 3, 3, 4, 5, 6, 6, 7, 8, 8, 3));
  EXPECT_THAT(rise("exponential"), ElementsAre(3, 5, 6, 6, 7, 7, 8, 8, 8, 8, 3));
  EXPECT_THAT(rise("rex"), ElementsAre(3, 3, 3, 3, 3, 3, 4, 4, 4, 5, 3));
  const auto fall = [](const char* kind, Reflection reflection) {
    PrecisionScheduleConfig config = curve(kind, "fall", 3, 8, 2);
    config.reflection = reflection;
    config.warmup_steps = 3;
    return weights({config, kAll, 23}, 11, 2);
  };
  for (const Reflection reflection : {Reflection::kHorizontal, Reflection::kVertical}) {
    EXPECT_THAT(fall("linear", reflection), ElementsAre(8, 8, 8, 7, 6, 6, 6, 5, 4, 4, 4));
    EXPECT_THAT(fall("cosine", reflection), ElementsAre(8, 8, 8, 8, 7, 6, 6, 5, 4, 3, 3));
  }
  EXPECT_THAT(fall("exponential", Reflection::kHorizontal), ElementsAre(8, 8, 8, 8, 8, 8, 7, 7, 6, 6, 5));
  EXPECT_THAT(fall("exponential", Reflection::kVertical), ElementsAre(8, 8, 6, 5, 5, 4, 4, 3, 3, 3, 3));
  EXPECT_THAT(fall("rex", Reflection::kHorizontal), ElementsAre(8, 8, 5, 4, 4, 4, 3, 3, 3, 3, 3));
  EXPECT_THAT(fall("rex", Reflection::kVertical), ElementsAre(8, 8, 8, 8, 8, 8, 8, 7, 7, 7, 6));
}

TEST(PrecisionSchedule, TriangularProfilesEndAtTheTopAndHaveTwoMirrorImages) {
  const auto valley = [](const char* kind, Reflection reflection) {
    PrecisionScheduleConfig config = curve(kind, "valley", 3, 8, 2);
    config.reflection = reflection;
    return weights({config, kAll, 40}, 21);
  };
  for (const Reflection reflection : {Reflection::kHorizontal, Reflection::kVertical}) {
    EXPECT_THAT(valley("linear", reflection),
                ElementsAre(8, 8, 7, 6, 6, 6, 5, 4, 4, 4, 3, 4, 4, 4, 5, 6, 6, 6, 7, 8, 8));
    EXPECT_THAT(valley("cosine", reflection),
                ElementsAre(8, 8, 8, 7, 6, 6, 5, 4, 3, 3, 3, 3, 3, 4, 5, 6, 6, 7, 8, 8, 8));
  }
  EXPECT_THAT(valley("exponential", Reflection::kHorizontal),
              ElementsAre(8, 8, 8, 8, 8, 7, 7, 6, 6, 5, 3, 5, 6, 6, 7, 7, 8, 8, 8, 8, 8));
  EXPECT_THAT(valley("exponential", Reflection::kVertical),
              ElementsAre(8, 6, 5, 5, 4, 4, 3, 3, 3, 3, 3, 5, 6, 6, 7, 7, 8, 8, 8, 8, 8));
  EXPECT_THAT(valley("rex", Reflection::kHorizontal),
              ElementsAre(8, 5, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 5, 8));
  EXPECT_THAT(valley("rex", Reflection::kVertical),
              ElementsAre(8, 8, 8, 8, 8, 8, 7, 7, 7, 6, 3, 3, 3, 3, 3, 3, 4, 4, 4, 5, 8));
  // The full cycle goes the other way round.
  PrecisionScheduleConfig full = curve("rex", "full", 3, 8, 2);
  EXPECT_THAT(weights({full, kAll, 40}, 20), ElementsAre(3, 3, 3, 3, 3, 3, 4, 4, 4, 5, 8, 5, 4, 4, 4, 3, 3, 3, 3, 3));
  full.reflection = Reflection::kVertical;
  EXPECT_THAT(weights({full, kAll, 40}, 20), ElementsAre(3, 3, 3, 3, 3, 3, 4, 4, 4, 5, 8, 8, 8, 8, 8, 8, 7, 7, 7, 6));
}

TEST(PrecisionSchedule, TriangularIsTheFullCycleOfStraightLines) {
  for (const auto& widths : {kAll, std::vector<int>{3, 4, 8}}) {
    const PrecisionSchedule triangle(curve("triangular", "", 3, 8, 3), widths, 50);
    const PrecisionSchedule line(curve("linear", "full", 3, 8, 3), widths, 50);
    EXPECT_EQ(weights(triangle, 50), weights(line, 50));
  }
}

// A pattern of 20 steps whose cycles lie 0.9 bits below one another.
TEST(PrecisionSchedule, ListsFallFromCycleToCycle) {
  PrecisionScheduleConfig config = curve("list", "", 3, 8, 6);
  config.list = {8, 4, 2, 4, 8};
  config.cycle_drop = 0.9;
  const PrecisionSchedule schedule(config, kAll, 120);
  EXPECT_THAT(weights(schedule, 5, 0, 4), ElementsAre(8, 4, 2, 4, 8));
  EXPECT_THAT(weights(schedule, 5, 20, 4), ElementsAre(7, 3, 2, 3, 7));
  EXPECT_THAT(weights(schedule, 5, 40, 4), ElementsAre(6, 2, 2, 2, 6));
  EXPECT_THAT(weights(schedule, 5, 100, 4), ElementsAre(3, 2, 2, 2, 3));
  EXPECT_EQ(schedule.at(23).weight, 7);
  EXPECT_EQ(scheduled_widths(config, kAll), (std::vector<int>{2, 3, 4, 5, 6, 7, 8}));
  // Of the widths that there are, the nearest; of two the smaller: 7 between 6 and 8, 3 between 2 and 4.
  const PrecisionSchedule coarse(config, {2, 4, 6, 8}, 120);
  EXPECT_THAT(weights(coarse, 5, 20, 4), ElementsAre(6, 2, 2, 2, 6));
  EXPECT_EQ(scheduled_widths(config, {2, 4, 6, 8, 16}), (std::vector<int>{2, 4, 6, 8}));
  config.cycle_drop = -1.0;
  EXPECT_THAT(refusal(config, kAll, 120), HasSubstr("precision.cycle_drop = -1: must not be negative"));
}

TEST(PrecisionSchedule, ATieBetweenWidthsGoesToTheSmaller) {
  // Half-way up 4..8 is 6, as far from 4 as from 8.
  const PrecisionSchedule schedule(curve("triangular", "", 4, 8, 1), {8, 4}, 4);
  EXPECT_THAT(weights(schedule, 4), ElementsAre(4, 4, 8, 4));
}

TEST(PrecisionSchedule, ListHoldsEachEntryForAnEqualShareOfACycle) {
  PrecisionScheduleConfig config = curve("list", "", 3, 8, 3);
  config.list = {8, 4, 2, 4, 8};
  const PrecisionSchedule schedule(config, kAll, 60);
  EXPECT_EQ(render_schedule(schedule, 0, 20), "8x4,4x4,2x4,4x4,8x4");
  EXPECT_EQ(render_schedule(schedule, 0, 40), "8x4,4x4,2x4,4x4,8x8,4x4,2x4,4x4,8x4");
}

TEST(PrecisionSchedule, ListSharesACycleThatItsLengthDoesNotDivide) {
  PrecisionScheduleConfig config = curve("list", "", 3, 8, 1);
  config.list = {2, 4, 8};
  // floor(unit * 3 / 10): 0,0,0,0,1,1,1,2,2,2
  EXPECT_EQ(render_schedule(PrecisionSchedule(config, kAll, 10), 0, 10), "2x4,4x3,8x3");
}

TEST(PrecisionSchedule, ConstantIsTheHighestWidthWhateverTheLowestIs) {
  PrecisionScheduleConfig config = curve("constant", "", 3, 2, 8);
  const PrecisionSchedule schedule(config, kAll, 1);
  EXPECT_EQ(schedule.at(0).weight, 2);
  EXPECT_EQ(schedule.at(1000).weight, 2);
  EXPECT_EQ(schedule.at(0).gradient, 8);
}

TEST(PrecisionSchedule, ScheduledGradientsFollowTheSameCurve) {
  PrecisionScheduleConfig config = curve("cosine", "rise", 3, 8, 1);
  config.grad_kind = GradientSchedule::kScheduled;
  config.grad_min_bits = 6;
  config.grad_max_bits = 8;
  const PrecisionSchedule schedule(config, kAll, 10);
  std::vector<int> gradients;
  for (int i = 0; i < 10; ++i) gradients.push_back(schedule.at(i).gradient);
  // 7 - cos(pi i / 10): 6, 6.05, 6.19, 6.41, 6.69, 7, 7.31, 7.59, 7.81, 7.95
  EXPECT_THAT(gradients, ElementsAre(6, 6, 6, 6, 7, 7, 7, 8, 8, 8));

  config.kind = ScheduleKind::kList;
  config.list = {2, 4, 8};  // 0, 1/3 and 1 of the way: 6, 6.67 and 8
  const PrecisionSchedule list(config, kAll, 3);
  EXPECT_EQ(list.at(0), (ScheduledBits{2, 6}));
  EXPECT_EQ(list.at(1), (ScheduledBits{4, 7}));
  EXPECT_EQ(list.at(2), (ScheduledBits{8, 8}));
}

TEST(PrecisionSchedule, GradientsOfAConstantOrLevelListHaveTheHighestWidth) {
  PrecisionScheduleConfig config = curve("constant", "", 3, 8, 1);
  config.grad_kind = GradientSchedule::kScheduled;
  config.grad_min_bits = 4;
  config.grad_max_bits = 6;
  EXPECT_EQ(PrecisionSchedule(config, kAll, 4).at(0).gradient, 6);
  config.kind = ScheduleKind::kList;
  config.list = {8, 8};
  EXPECT_EQ(PrecisionSchedule(config, kAll, 4).at(3).gradient, 6);
  config.grad_kind = GradientSchedule::kConstant;
  EXPECT_EQ(PrecisionSchedule(config, kAll, 4).at(3).gradient, 4);
}

TEST(PrecisionSchedule, FallingWidthsAndGradientsRoundHalfToEvenToo) {
  EXPECT_EQ(PrecisionSchedule(curve("cosine", "fall", 3, 8, 1), kAll, 4).at(2).weight, 6);  // exactly 5.5
  PrecisionScheduleConfig config = curve("cosine", "rise", 3, 8, 1);
  config.grad_kind = GradientSchedule::kScheduled;
  config.grad_min_bits = 6;
  config.grad_max_bits = 9;
  EXPECT_EQ(PrecisionSchedule(config, kAll, 4).at(2).gradient, 8);  // exactly 7.5
  config.kind = ScheduleKind::kList;
  config.list = {4, 6, 8};
  EXPECT_EQ(PrecisionSchedule(config, kAll, 3).at(1).gradient, 8);
  config.kind = ScheduleKind::kTriangular;
  EXPECT_EQ(PrecisionSchedule(config, kAll, 4).at(1).gradient, 8);
}

TEST(PrecisionSchedule, BeginsAgainAfterItsLastUnit) {
  const PrecisionSchedule full(curve("cosine", "full", 2, 18, 2), kAll, 25);
  EXPECT_EQ(weights(full, 25, 25), weights(full, 25));
  const PrecisionSchedule triangle(curve("triangular", "", 2, 8, 2), kAll, 20);
  EXPECT_EQ(weights(triangle, 20, 20), weights(triangle, 20));
  EXPECT_THROW((void)triangle.at(-1), Error);
  EXPECT_THAT(triangle.segments(3, 5), ElementsAre(ScheduleSegment{3, 1, {6, 8}}, ScheduleSegment{4, 1, {7, 8}}));
}

TEST(PrecisionSchedule, SegmentsPartWhereGradientBitsChange) {
  PrecisionScheduleConfig config = curve("triangular", "", 4, 8, 1);
  config.grad_kind = GradientSchedule::kScheduled;
  config.grad_min_bits = 8;
  config.grad_max_bits = 18;
  const PrecisionSchedule schedule(config, {4, 8}, 8);
  EXPECT_THAT(schedule.segments(0, 4),
              ElementsAre(ScheduleSegment{0, 1, {4, 8}}, ScheduleSegment{1, 1, {4, 10}},  // exactly 10.5
                          ScheduleSegment{2, 1, {4, 13}}, ScheduleSegment{3, 1, {8, 16}}));
  EXPECT_EQ(render_schedule(schedule, 0, 8), "4x3,8x3,4x2");
  EXPECT_EQ(render_schedule(schedule, 3, 3), "");
}

// A pattern of 20 steps whose blocks are two steps apart.
TEST(PrecisionSchedule, BlocksRunAheadOfOneAnother) {
  PrecisionScheduleConfig config = curve("list", "", 2, 8, 2);
  config.list = {8, 4, 2, 4, 8};
  config.layer_offset = 2;
  const PrecisionSchedule schedule(config, kAll, 40);
  for (const std::int64_t unit : {0, 3, 9, 17, 39}) {
    std::vector<int> want;
    for (std::int64_t block = 0; block < 12; ++block) want.push_back(schedule.at((unit + 2 * block) % 40).weight);
    EXPECT_EQ(schedule.block_bits(unit, 12), want) << unit;
  }
  EXPECT_THAT(schedule.block_bits(0, 6), ElementsAre(8, 8, 4, 4, 2, 2));
  EXPECT_THAT(schedule.block_bits(0, 2), ElementsAre()) << "all have the step's width";
  config.layer_offset = 0;
  EXPECT_THAT(PrecisionSchedule(config, kAll, 40).block_bits(0, 6), ElementsAre());
}

TEST(PrecisionSchedule, BlocksThatAreAheadCycleOnUntilTheStaticPhaseHasCome) {
  PrecisionScheduleConfig config{.kind = ScheduleKind::kCyclic, .switch_interval = 1, .layer_offset = 1};
  config.static_after = 4, config.static_at = "8";
  const PrecisionSchedule schedule(config, {2, 4, 8}, 6);
  EXPECT_THAT(schedule.block_bits(0, 4), ElementsAre(2, 4, 8, 2));
  EXPECT_THAT(schedule.block_bits(3, 4), ElementsAre(2, 4, 8, 2));
  EXPECT_EQ(schedule.at(4).weight, 8);
  EXPECT_THAT(schedule.block_bits(4, 4), ElementsAre());
}

TEST(PrecisionSchedule, OfBoundsThatAreNotKnownMayVisitWhatTheTestTries) {
  PrecisionScheduleConfig config = curve("cosine", "rise", kAutoBits, kAutoBits, 1);
  EXPECT_EQ(scheduled_widths(config, {8, 2, 32, 4}), (std::vector<int>{2, 4, 8}));
  EXPECT_EQ(widest_bounds(config, {8, 2, 32, 4}).min_bits, 2);
  EXPECT_EQ(widest_bounds(config, {8, 2, 32, 4}).max_bits, 8);
  EXPECT_TRUE(schedule_faults(config, {8, 2, 32, 4}, 10).empty());
  EXPECT_THROW(PrecisionSchedule(config, {8, 2, 32, 4}, 10), Error) << "it cannot be followed yet";
  EXPECT_EQ(schedule_faults(config, {32}, 10).at(0).key, "precision.min_bits");
  config.min_bits = 8;
  EXPECT_EQ(schedule_faults(config, {2, 4}, 10).at(0).rule, "must be one of quant.widths");
  config.kind = ScheduleKind::kConstant;
  EXPECT_TRUE(waits_for_range_test(config));
  config.max_bits = 8;
  EXPECT_FALSE(waits_for_range_test(config));
  config.kind = ScheduleKind::kCyclic;
  config.max_bits = kAutoBits;
  EXPECT_FALSE(waits_for_range_test(config));
}

TEST(PrecisionSchedule, SaysBeforehandWhichWidthsItVisits) {
  PrecisionScheduleConfig list = curve("list", "", 3, 8, 1);
  list.list = {8, 4, 8};
  EXPECT_EQ(scheduled_widths(list, {8, 2, 4, 32}), (std::vector<int>{4, 8}));
  EXPECT_EQ(scheduled_widths(curve("constant", "", 3, 8, 1), {2, 4, 8, 32}), std::vector<int>{8});
  for (const char* phase : {"rise", "full"}) {
    const PrecisionScheduleConfig config = curve("cosine", phase, 3, 8, 2);
    const PrecisionSchedule schedule(config, {2, 3, 5, 8, 32}, 400);
    std::set<int> visited;
    for (const ScheduleSegment& segment : schedule.segments(0, 400)) visited.insert(segment.bits.weight);
    EXPECT_EQ(scheduled_widths(config, {2, 3, 5, 8, 32}), std::vector<int>(visited.begin(), visited.end()));
  }
}

}  // namespace
}  // namespace qat
