#include "src/train/resume_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/common/error.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr const char* kBefore =
    R"({"run": {"dir": "a", "seed": 1}, "model": {"n_layer": 2, "n_head": 2}, "train": {"steps": 10}, "lora": {"rank": 4}})";

TEST(ResumeCheck, TheSameConfigurationElsewhereIsNoChange) {
  EXPECT_THAT(resumed_changes(kBefore, R"({"lora": {"rank": 4}, "run": {"dir": "b", "seed": 1},
              "model": {"n_head": 2, "n_layer": 2}, "train": {"steps": 10}, "parallel": {"data": 4}, "watchdog": {"limit_seconds": 60}})"),
              IsEmpty());
}

TEST(ResumeCheck, AChangeThatFitsIsAllowedAndSaid) {
  EXPECT_THAT(
      resumed_changes(
          kBefore,
          R"({"run": {"seed": 1, "dir": "a"}, "model": {"n_layer": 2, "n_head": 2}, "train": {"steps": 20}, "lora": {"rank": 4}})"),
      ElementsAre(AllOf(HasSubstr("train.steps"), HasSubstr("10 in the checkpoint"), HasSubstr("20 now"))));
}

TEST(ResumeCheck, AKeyThatOneSideLacksIsAChange) {
  const auto changes = config_changes(kBefore, R"({"run": {"seed": 1}, "model": {"n_layer": 2, "n_head": 2},
              "train": {"steps": 10}, "lora": {"rank": 4, "alpha": 8}})");
  ASSERT_EQ(changes.size(), 1U);
  EXPECT_EQ(changes[0].text(), "lora.alpha: (not there) in the checkpoint, 8 now");
}

}  // namespace
}  // namespace qat
