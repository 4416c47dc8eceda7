#include "dist/comm/tree_reduce.h"

#include <gtest/gtest.h>

#include <limits>

#include "kernels/common/error.h"
#include "tests/dist/random_leaves.h"

namespace qat::dist {
namespace {

std::vector<const void*> pointers(const std::vector<std::vector<float>>& leaves) {
  std::vector<const void*> inputs;
  for (const std::vector<float>& leaf : leaves) inputs.push_back(leaf.data());
  return inputs;
}

TEST(TreeReduce, TheLeftChildHoldsTheLargestPowerOfTwoBelowTheCount) {
  const std::vector<std::int64_t> expected{1, 2, 2, 4, 4, 4, 4, 8, 8};  // for 2..10 leaves
  for (std::int64_t n = 2; n <= 10; ++n) EXPECT_EQ(left_leaves(n), expected[static_cast<std::size_t>(n - 2)]) << n;
  EXPECT_EQ(left_leaves((std::int64_t{1} << 40) + 1), std::int64_t{1} << 40);
}

TEST(TreeReduce, SumsAnyCountOfInputsInTreeOrderToTheBit) {
  constexpr std::int64_t kElems = 5000;  // more than two chunks
  for (int count = 1; count <= 17; ++count) {
    std::vector<std::vector<float>> leaves;
    for (int leaf = 0; leaf < count; ++leaf) leaves.push_back(testing::random_leaf(leaf, kElems));
    std::vector<float> expected;
    for (std::int64_t i = 0; i < kElems; ++i) expected.push_back(testing::tree_of_random(0, count, i));
    std::vector<float> out(kElems);
    tree_reduce(ReduceOp::kSum, DType::kFloat32, pointers(leaves), out.data(), kElems);
    EXPECT_EQ(testing::compare_bits(out, expected), "equal") << count << " inputs";
    // In place: the result may overwrite any of the inputs.
    std::vector<float>& target = leaves[static_cast<std::size_t>(count / 2)];
    tree_reduce(ReduceOp::kSum, DType::kFloat32, pointers(leaves), target.data(), kElems);
    EXPECT_EQ(testing::compare_bits(target, expected), "equal") << count << " inputs, in place";
  }
}

// By hand: 2^24 + 1 is 2^24 in fp32, so ((2^24 + 1) + (1 + 1)) = 2^24 + 2, and one by one it would be 2^24.
TEST(TreeReduce, PairsNeighboursBeforeAddingThePairs) {
  const std::vector<std::vector<float>> leaves{{16777216.0F}, {1.0F}, {1.0F}, {1.0F}};
  float out = 0.0F;
  tree_reduce(ReduceOp::kSum, DType::kFloat32, pointers(leaves), &out, 1);
  EXPECT_EQ(out, 16777218.0F);
}

TEST(TreeReduce, RefusesWhatItCannotAdd) {
  const std::vector<std::int8_t> a(4), b(4);
  std::vector<std::int8_t> out(4);
  const std::vector<const void*> inputs{a.data(), b.data()};
  EXPECT_THROW(tree_reduce(ReduceOp::kSum, DType::kInt8, inputs, out.data(), 4), Error);
  EXPECT_THROW(tree_reduce(ReduceOp::kSum, DType::kUInt8, inputs, out.data(), 4), Error);
  EXPECT_THROW(tree_reduce(ReduceOp::kMax, DType::kBFloat16, inputs, out.data(), 2), Error);
  EXPECT_NO_THROW(tree_reduce(ReduceOp::kMax, DType::kInt8, inputs, out.data(), 4));
}

}  // namespace
}  // namespace qat::dist
