#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/schedule/precision_schedule.h"
#include "tests/src/schedule/schedule_test_tools.h"

namespace qat {
namespace {

using testing::curve;
using ::testing::HasSubstr;
using testing::kAll;
using testing::refusal;

TEST(PrecisionSchedule, RefusesWhatCannotBeFollowed) {
  EXPECT_THAT(refusal(curve("cosine", "rise", 3, 8, 8), kAll, 15), HasSubstr("at least 2 steps; at most 7 cycles"));
  EXPECT_EQ(refusal(curve("cosine", "rise", 3, 8, 8), kAll, 16), "");
  EXPECT_THAT(refusal(curve("cosine", "rise", 3, 8, 0), kAll, 15),
              HasSubstr("precision.cycles = 0: must be at least 1"));
  EXPECT_THAT(refusal(curve("cosine", "rise", 8, 3, 1), kAll, 15),
              HasSubstr("precision.min_bits = 8: must not exceed precision.max_bits"));
  EXPECT_THAT(refusal(curve("cosine", "rise", 5, 7, 1), {4, 8}, 15),
              HasSubstr("precision.min_bits = 5: must be one of quant.widths"));
  EXPECT_THAT(refusal(curve("constant", "", 3, 8, 1), {2, 4}, 15), HasSubstr("precision.max_bits = 8: must be one of"));

  PrecisionScheduleConfig list = curve("list", "", 3, 8, 4);
  EXPECT_THAT(refusal(list, kAll, 15), HasSubstr("precision.list = []: must not be empty"));
  list.list = {8, 4, 2, 4, 8};
  EXPECT_THAT(refusal(list, kAll, 19), HasSubstr("at least 5 steps; at most 3 cycles in 19 steps"));
  EXPECT_THAT(refusal(list, {4, 8}, 40), HasSubstr("precision.list[2] = 2: must be one of quant.widths"));

  PrecisionScheduleConfig fall = curve("cosine", "fall", 4, 8, 2);
  fall.warmup_steps = 97;
  EXPECT_THAT(refusal(fall, kAll, 100), HasSubstr("at most 1 cycles in 3 steps"));

  fall.warmup_steps = -1;
  EXPECT_THAT(refusal(fall, kAll, 100), HasSubstr("precision.warmup_steps = -1: must not be"));
  EXPECT_THAT(refusal(curve("cosine", "rise", 3, 8, 8), kAll, 1), HasSubstr("1 step is too few for one"));
  EXPECT_EQ(refusal(curve("cosine", "rise", 8, 8, 1), kAll, 15), "");

  PrecisionScheduleConfig gradients = curve("cosine", "rise", 3, 8, 1);
  gradients.grad_kind = GradientSchedule::kScheduled;
  gradients.grad_max_bits = 19;
  EXPECT_THAT(refusal(gradients, kAll, 100), HasSubstr("precision.grad_max_bits = 19: must be 2..18 or 32"));
  gradients.grad_max_bits = 8;
  EXPECT_EQ(refusal(gradients, kAll, 100), "");  // equal bounds are a range
  PrecisionScheduleConfig ahead = curve("cosine", "rise", 3, 8, 1);
  ahead.layer_offset = -1;
  EXPECT_THAT(refusal(ahead, kAll, 100), HasSubstr("precision.layer_offset = -1: must not be negative"));
  gradients.grad_kind = GradientSchedule::kConstant;
  gradients.grad_min_bits = 1;
  EXPECT_THAT(refusal(gradients, kAll, 100), HasSubstr("precision.grad_min_bits = 1: must be 2..18 or 32"));
  gradients.grad_kind = GradientSchedule::kScheduled;
  gradients.grad_min_bits = 8;
  gradients.grad_max_bits = 6;
  EXPECT_THAT(refusal(gradients, kAll, 100), HasSubstr("precision.grad_min_bits = 8: must not exceed"));
}

}  // namespace
}  // namespace qat
