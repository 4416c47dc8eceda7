// Keys of the schedules of widths and learning rates that do not fit each other, or have no effect.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/config/effective.h"
#include "tests/src/config/config_test_tools.h"

namespace qat {
namespace {

using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::load_sets;
using testing::Sets;

constexpr const char* kMilestone = R"(lr.milestones=[{"step":10,"factor":0.1}])";

std::string error(const Sets& sets) { return error_of("{}", sets); }

std::string warning(const Sets& sets) {
  const auto warnings = load_sets(sets).warnings;
  return warnings.empty() ? "" : warnings.front();
}

TEST(ScheduleKeys, AreRefusedByNameValueAndRule) {
  EXPECT_THAT(error({"precision.cycle_drop=-1"}),
              HasSubstr("precision.cycle_drop = -1: must be a number from 0 to 32"));
  EXPECT_THAT(error({"precision.reflection=diagonal"}),
              HasSubstr("precision.reflection = \"diagonal\": must be one of horizontal, vertical"));
  EXPECT_THAT(error({"precision.kind=rex", "precision.cycles=501"}),
              HasSubstr("each cycle must have at least 2 steps; at most 500 cycles in 1000 steps"));
  EXPECT_THAT(error({"precision.kind=linear", "precision.phase=fall", "precision.warmup_steps=1000"}),
              HasSubstr("precision.warmup_steps = 1000: must leave steps"));
  EXPECT_THAT(error({"lr.decay=piecewise"}),
              HasSubstr("lr.milestones = [] (default): must not be empty for lr.decay \"piecewise\""));
  EXPECT_THAT(error({"lr.decay=piecewise", R"(lr.milestones=[{"step":10,"factor":0.1},{"step":5,"factor":0.1}])"}),
              HasSubstr("lr.milestones[1].step = 5: must be above 10, the milestone before it"));
  EXPECT_THAT(error({"lr.decay=piecewise", R"(lr.milestones=[{"step":1000,"factor":0.1}])"}),
              HasSubstr("lr.milestones[0].step = 1000: must be below train.steps, 1000"));
  EXPECT_THAT(error({"lr.decay=piecewise", R"(lr.milestones=[{"step":10}])"}),
              HasSubstr("lr.milestones[0] = {\"step\":10}: must name its \"factor\""));
  EXPECT_EQ(error({"lr.decay=piecewise", kMilestone}), "");
}

TEST(ScheduleKeys, ABoundMayBeLeftToTheRangeTest) {
  const RunConfig both = load_sets({"precision.min_bits=auto", "precision.max_bits=auto"}).config;
  EXPECT_EQ(both.precision.min_bits, kAutoBits);
  EXPECT_EQ(both.precision.max_bits, kAutoBits);
  const std::string text = to_json(config_to_json(both));
  EXPECT_THAT(text, HasSubstr(R"("min_bits":"auto","max_bits":"auto")"));
  EXPECT_EQ(testing::load_text(text).config.precision.max_bits, kAutoBits);
  EXPECT_EQ(load_sets({"precision.min_bits=auto", "precision.max_bits=6"}).config.precision.max_bits, 6);
  EXPECT_THAT(error({"precision.min_bits=0"}), HasSubstr("precision.min_bits = 0: must be 1..18 or 32, or \"auto\""));
  EXPECT_THAT(error({"precision.min_bits=Auto"}), HasSubstr("precision.min_bits = \"Auto\": must be"));
  EXPECT_THAT(error({"precision.min_bits=auto", "precision.max_bits=10"}),
              HasSubstr("precision.max_bits = 10: must be one of quant.widths"));
  EXPECT_THAT(error({"precision.min_bits=auto", "precision.max_bits=32", "quant.widths=[32]"}),
              HasSubstr("precision.min_bits = \"auto\": must not be \"auto\" without a width below 32"));
  EXPECT_THAT(error({"precision.min_bits=auto", "model.task=span_qa"}),
              HasSubstr("range_test.form = \"accuracy\" (default): must be \"plateau\""));
  EXPECT_THAT(warning({"precision.kind=constant", "precision.min_bits=auto"}),
              HasSubstr("precision.min_bits = \"auto\": has no effect"));
  EXPECT_THAT(error({"range_test.steps=1"}), HasSubstr("range_test.steps = 1: must be an integer from 2"));
}

TEST(ScheduleKeys, WithoutEffectAreTold) {
  EXPECT_THAT(warning({"precision.kind=rex", "precision.cycles=7"}), HasSubstr("does not divide the steps"));
  EXPECT_THAT(warning({"precision.kind=rex", "precision.phase=valley", "precision.cycles=7"}), IsEmpty());
  EXPECT_THAT(warning({"precision.kind=rex", "precision.reflection=vertical"}),
              HasSubstr("precision.reflection = \"vertical\": has no effect"));
  EXPECT_THAT(warning({"precision.kind=linear", "precision.phase=full", "precision.reflection=vertical"}),
              HasSubstr("only exponential and rex have two ways down"));
  EXPECT_THAT(warning({"precision.kind=rex", "precision.phase=valley", "precision.reflection=vertical"}), IsEmpty());
  EXPECT_THAT(warning({"precision.cycle_drop=1"}), HasSubstr("only the list schedule reads it"));
  EXPECT_THAT(warning({kMilestone}), HasSubstr("only the piecewise rate has"));
  EXPECT_THAT(warning({"lr.decay=piecewise", kMilestone, "lr.min_ratio=0"}),
              HasSubstr("lr.min_ratio = 0.0: has no effect"));
}

}  // namespace
}  // namespace qat
