// Schedules that switch between widths or maps, by sequences worked out by hand.
#include "src/schedule/switching.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "kernels/common/error.h"
#include "src/schedule/precision_schedule.h"
#include "src/schedule/schedule_rules.h"

namespace qat {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<int> kWidths = {2, 4, 8};
const std::vector<PrecisionChoice> kMaps = {{.name = "stripe4&2", .weight_bits = 2, .bits = 2.8},
                                            {.name = "8", .weight_bits = 8, .bits = 8.0},
                                            {.name = "stripe8&4", .weight_bits = 4, .bits = 5.7}};

PrecisionScheduleConfig kind(ScheduleKind kind, std::int64_t interval = 1) {
  PrecisionScheduleConfig config;
  config.kind = kind;
  config.switch_interval = interval;
  return config;
}

std::vector<int> widths(const PrecisionSchedule& schedule, std::int64_t units) {
  std::vector<int> bits;
  for (std::int64_t unit = 0; unit < units; ++unit) bits.push_back(schedule.at(unit).weight);
  return bits;
}

std::vector<int> maps(const PrecisionSchedule& schedule, std::int64_t units) {
  std::vector<int> numbers;
  for (std::int64_t unit = 0; unit < units; ++unit) numbers.push_back(schedule.at(unit).map);
  return numbers;
}

TEST(Switching, CyclicHoldsEachChoiceForItsInterval) {
  EXPECT_THAT(widths({kind(ScheduleKind::kCyclic), kWidths, 10}, 5), ElementsAre(2, 4, 8, 2, 4));
  EXPECT_THAT(widths({kind(ScheduleKind::kCyclic, 2), {8, 2}, 10}, 6), ElementsAre(8, 8, 2, 2, 8, 8));
  const PrecisionSchedule of_maps(kind(ScheduleKind::kCyclic, 2), kWidths, 10, kMaps);
  EXPECT_THAT(maps(of_maps, 7), ElementsAre(0, 0, 1, 1, 2, 2, 0));
  EXPECT_THAT(widths(of_maps, 7), ElementsAre(2, 2, 8, 8, 4, 4, 2));
  EXPECT_EQ(PrecisionSchedule(kind(ScheduleKind::kCyclic), kWidths, 10).at(3).map, -1);
}

// 001: N = 10 over {2, 4, 8} is three steps each from the most bits, and the rest at the fewest.
TEST(Switching, ProgressiveFallsInEqualSharesAndStaysAtTheFewestBits) {
  EXPECT_THAT(widths({kind(ScheduleKind::kProgressive), kWidths, 10}, 12),
              ElementsAre(8, 8, 8, 4, 4, 4, 2, 2, 2, 2, 2, 2));
  EXPECT_THAT(maps({kind(ScheduleKind::kProgressive), kWidths, 6, kMaps}, 6), ElementsAre(1, 1, 2, 2, 0, 0));
}

TEST(Switching, ScheduledRepeatsItsPattern) {
  PrecisionScheduleConfig config = kind(ScheduleKind::kScheduled, 2);
  config.pattern = {"8:3", "2", "4:1"};
  EXPECT_THAT(widths({config, kWidths, 100}, 8), ElementsAre(8, 8, 8, 2, 2, 4, 8, 8));
  config.pattern = {"stripe8&4:1", "8:2"};
  EXPECT_THAT(maps({config, kWidths, 100, kMaps}, 5), ElementsAre(2, 1, 1, 2, 1));
}

TEST(Switching, RandomIsAFunctionOfSeedAndUnitThatSwitchesAsOftenAsItSays) {
  PrecisionScheduleConfig config = kind(ScheduleKind::kRandom, 5);
  config.switch_probability = 0.3;
  const PrecisionSchedule one(config, kWidths, 20000, {}, 7), again(config, kWidths, 20000, {}, 7),
      other(config, kWidths, 20000, {}, 8);
  std::map<int, int> seen;
  int switches = 0;
  const auto sequence = widths(one, 20000);
  for (std::int64_t unit = 19999; unit >= 0; --unit) {
    const int bits = again.at(unit).weight;  // whatever was asked before
    ASSERT_EQ(bits, sequence[static_cast<std::size_t>(unit)]);
    ++seen[bits];
    EXPECT_EQ(bits, sequence[static_cast<std::size_t>(unit - unit % 5)]);
    if (unit > 0 && bits != sequence[static_cast<std::size_t>(unit - 1)]) ++switches;
  }
  for (const int bits : kWidths) EXPECT_NEAR(seen[bits], 20000 / 3, 900) << bits;
  EXPECT_NEAR(switches, 4000 * 0.3 * 2 / 3, 90);  // one draw in three is the width that is there
  EXPECT_NE(widths(other, 20000), sequence);
  config.switch_probability = 1.0;
  const auto always = widths({config, kWidths, 20000, {}, 7}, 20000);
  switches = 0;
  for (std::size_t unit = 1; unit < always.size(); ++unit) switches += always[unit] != always[unit - 1] ? 1 : 0;
  EXPECT_NEAR(switches, 4000 * 2 / 3, 120);
}

TEST(Switching, AStaticPhaseFollowsAnySchedule) {
  PrecisionScheduleConfig config = kind(ScheduleKind::kCyclic);
  config.static_after = 4, config.static_at = "8";
  EXPECT_THAT(widths({config, kWidths, 7}, 7), ElementsAre(2, 4, 8, 2, 8, 8, 8));
  EXPECT_THAT(maps({config, kWidths, 7, kMaps}, 6), ElementsAre(0, 1, 2, 0, 1, 1));
  config.kind = ScheduleKind::kProgressive, config.static_after = 6, config.static_at = "4";
  EXPECT_THAT(widths({config, kWidths, 100}, 8), ElementsAre(8, 8, 4, 4, 2, 2, 4, 4));
  // The cycles of a curve fit into the units before it.
  PrecisionScheduleConfig cosine;
  cosine.cycles = 2, cosine.min_bits = 2, cosine.max_bits = 8;
  const auto alone = widths({cosine, {2, 3, 4, 5, 6, 7, 8}, 20}, 20);
  cosine.static_after = 20, cosine.static_at = "3";
  auto two = widths({cosine, {2, 3, 4, 5, 6, 7, 8}, 30}, 30);
  EXPECT_EQ(std::vector<int>(two.begin() + 20, two.end()), std::vector<int>(10, 3));
  two.resize(20);
  EXPECT_EQ(two, alone);
}

std::vector<std::string> faults(const PrecisionScheduleConfig& config, std::optional<std::int64_t> units = 100,
                                const std::vector<std::string>& names = {}) {
  std::vector<std::string> texts;
  for (const ScheduleFault& fault : schedule_faults(config, kWidths, units, names))
    texts.push_back(fault.key + fault.element + " = " + fault.value + ": " + fault.rule);
  return texts;
}

TEST(Switching, RefusesWhatCannotBeFollowed) {
  EXPECT_THAT(faults(kind(ScheduleKind::kCyclic)), ElementsAre());
  EXPECT_THAT(faults(kind(ScheduleKind::kCyclic, 0)),
              ElementsAre(HasSubstr("switch_interval = 0: must be at least 1")));
  PrecisionScheduleConfig config = kind(ScheduleKind::kRandom);
  for (const double p : {0.0, 1.5}) {
    config.switch_probability = p;
    EXPECT_THAT(faults(config), ElementsAre(HasSubstr("must be above 0, and at most 1")));
  }
  config = kind(ScheduleKind::kScheduled);
  EXPECT_THAT(faults(config), ElementsAre(HasSubstr("pattern = []: must not be empty")));
  config.pattern = {"8:0", "8:x", "3:5", "4"};
  EXPECT_THAT(faults(config), ElementsAre(HasSubstr("pattern[0] = \"8:0\": must end in a length"),
                                          HasSubstr("pattern[1] = \"8:x\": must end in a length"),
                                          HasSubstr("pattern[2] = \"3:5\": must be one of quant.widths")));
  config.pattern = {"stripe8&4:5", "strip8&4"};
  EXPECT_THAT(faults(config, 100, {"stripe8&4"}),
              ElementsAre(HasSubstr("must be one of quant.maps; did you mean \"stripe8&4\"?")));
  config = kind(ScheduleKind::kCyclic);
  config.grad_kind = GradientSchedule::kScheduled, config.grad_min_bits = 4;
  EXPECT_THAT(faults(config), ElementsAre(HasSubstr("grad_kind = scheduled: must be \"constant\"")));
  EXPECT_THAT(faults(kind(ScheduleKind::kProgressive), 2), ElementsAre(HasSubstr("needs at least 3 steps")));
  config = kind(ScheduleKind::kCyclic);
  config.static_after = 100, config.static_at = "8";
  EXPECT_THAT(faults(config), ElementsAre(HasSubstr("static_after = 100: must be below the run's 100 steps")));
  EXPECT_THAT(faults(config, std::nullopt), ElementsAre());
  config.static_after = 50, config.static_at = "";
  EXPECT_THAT(faults(config), ElementsAre(HasSubstr("static_at = \"\": must be one of quant.widths")));
  EXPECT_THAT(
      faults(kind(ScheduleKind::kConstant), 100, {"a", "b"}),
      ElementsAre(HasSubstr("kind = constant: must be cyclic, random, progressive or scheduled with quant.maps")));
  EXPECT_THROW(PrecisionSchedule(kind(ScheduleKind::kScheduled), kWidths, 10), Error);
}

TEST(Switching, SaysBeforehandWhichWidthsItVisits) {
  EXPECT_THAT(scheduled_widths(kind(ScheduleKind::kRandom), {8, 2, 4}), ElementsAre(2, 4, 8));
  PrecisionScheduleConfig config = kind(ScheduleKind::kScheduled);
  config.pattern = {"8:3", "2"};
  EXPECT_THAT(scheduled_widths(config, {2, 4, 6, 8}), ElementsAre(2, 8));
  config.static_after = 9, config.static_at = "6";
  EXPECT_THAT(scheduled_widths(config, {2, 4, 6, 8}), ElementsAre(2, 6, 8));
  PrecisionScheduleConfig constant;
  constant.kind = ScheduleKind::kConstant, constant.max_bits = 4;
  constant.static_after = 9, constant.static_at = "2";
  EXPECT_THAT(scheduled_widths(constant, {2, 4, 6, 8}), ElementsAre(2, 4));
}

}  // namespace
}  // namespace qat
