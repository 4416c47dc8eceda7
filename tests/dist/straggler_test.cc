#include "dist/watch/straggler.h"

#include <gtest/gtest.h>

namespace qat::dist {
namespace {

TEST(Straggler, IsNamedOnceAWindow) {
  StragglerWindow window(/*ranks=*/4, /*window=*/5);
  int findings = 0;
  for (int step = 0; step < 10; ++step) {
    const auto found = window.add(std::vector{1.0, 1.1, 1.5, 0.9});
    EXPECT_EQ(found.has_value(), step % 5 == 4) << step;
    if (!found) continue;
    ++findings;
    EXPECT_EQ(found->rank, 2);
    EXPECT_DOUBLE_EQ(found->factor, 1.5);
    EXPECT_DOUBLE_EQ(found->seconds_a_step, 0.5);
    EXPECT_EQ(found->steps, 5);
  }
  EXPECT_EQ(findings, 2);
}

TEST(Straggler, TwentyPercentIsAllowed) {
  StragglerWindow window(2, 3);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(window.add(std::vector{1.0, 1.2}));
  for (int i = 0; i < 2; ++i) EXPECT_FALSE(window.add(std::vector{1.0, 1.21}));
  const auto found = window.add(std::vector{1.0, 1.21});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->rank, 1);
}

TEST(Straggler, AFewSlowStepsAreNone) {
  StragglerWindow window(3, 9);
  for (int i = 0; i < 9; ++i) EXPECT_FALSE(window.add(std::vector{1.0, i < 4 ? 60.0 : 1.0, 1.0}));
}

TEST(Straggler, StepsOfDifferentLengthAreComparedEachForItself) {
  // Rank 1 is slow in every step, but rank 0's long steps are longer than its short ones.
  StragglerWindow window(3, 4);
  std::optional<Straggler> found;
  for (const double length : {1.0, 8.0, 2.0, 16.0}) found = window.add(std::vector{length, 1.3 * length, length});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->rank, 1);
  EXPECT_NEAR(found->factor, 1.3, 1e-9);
}

TEST(Straggler, TheMedianOfTheOthersLeavesTheRankItselfOut) {
  StragglerWindow window(3, 1);
  const auto found = window.add(std::vector{3.0, 1.0, 2.0});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->rank, 0);
  EXPECT_DOUBLE_EQ(found->factor, 2.0);  // of 1.0 and 2.0: 1.5
  StragglerWindow equal(4, 1);
  EXPECT_FALSE(equal.add(std::vector{1.0, 1.0, 1.0, 1.0}));
}

TEST(Straggler, NobodyIsSlowAloneOrWithoutAWindow) {
  StragglerWindow alone(1, 2);
  for (int i = 0; i < 4; ++i) EXPECT_FALSE(alone.add(std::vector{1.0}));
  StragglerWindow off(2, 0);
  for (int i = 0; i < 4; ++i) EXPECT_FALSE(off.add(std::vector{1.0, 9.0}));
}

TEST(Straggler, TheLineNamesRankHostAndFactor) {
  EXPECT_EQ(to_text({.rank = 3, .factor = 1.3149, .steps = 50, .seconds_a_step = 0.0421}, "node7"),
            "rank 3 (node7) is slow: its own work takes 1.31 times as long as the median of the other ranks, 0.042 s "
            "more a step, over the last 50 steps");
}

}  // namespace
}  // namespace qat::dist
