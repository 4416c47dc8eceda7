#include "dist/comm/agree.h"

#include <gtest/gtest.h>

namespace qat::dist {
namespace {

TEST(NameRanks, JoinsRunsOfRanks) {
  EXPECT_EQ(name_ranks({3}), "rank 3");
  EXPECT_EQ(name_ranks({0, 1}), "ranks 0, 1");
  EXPECT_EQ(name_ranks({0, 1, 2, 3, 4, 5, 6, 7}), "ranks 0-7");
  EXPECT_EQ(name_ranks({0, 1, 2, 5, 7, 8}), "ranks 0-2, 5, 7, 8");
  EXPECT_THROW(name_ranks({}), Error);
}

}  // namespace
}  // namespace qat::dist
