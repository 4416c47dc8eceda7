#include "dist/grad/tree_accumulator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "dist/comm/tree_reduce.h"
#include "dist/grad/recycling_memory.h"
#include "kernels/common/error.h"
#include "tests/dist/random_leaves.h"

namespace qat::dist {
namespace {

constexpr std::int64_t kElems = 999;

void add_leaf(TreeAccumulator& accumulator, int leaf) {
  const std::vector<float> values = testing::random_leaf(leaf, kElems);
  std::copy(values.begin(), values.end(), accumulator.next().begin());
  accumulator.commit();
}

std::vector<float> to_vector(std::span<const float> values) { return {values.begin(), values.end()}; }

TEST(TreeAccumulator, SumsAnyCountOfLeavesAsTheBalancedTree) {
  TreeAccumulator accumulator(kElems);
  for (int count = 1; count <= 20; ++count) {
    accumulator.reset();
    for (int leaf = 0; leaf < count; ++leaf) add_leaf(accumulator, leaf);
    EXPECT_EQ(accumulator.leaves(), count);
    std::vector<float> expected;
    for (std::int64_t i = 0; i < kElems; ++i) expected.push_back(testing::tree_of_random(0, count, i));
    EXPECT_EQ(testing::compare_bits(to_vector(accumulator.result()), expected), "equal") << count << " leaves";
    EXPECT_EQ(testing::compare_bits(to_vector(accumulator.result()), expected), "equal") << "asked twice";
  }
}

// A rank's leaves as groups of `group`: first the tree of each group, then the tree of the groups.
float grouped_tree_of_random(int first_group, int groups, int group, std::int64_t index) {
  if (groups == 1) return testing::tree_of_random(first_group * group, group, index);
  const auto left = static_cast<int>(left_leaves(groups));
  return grouped_tree_of_random(first_group, left, group, index) +
         grouped_tree_of_random(first_group + left, groups - left, group, index);
}

TEST(TreeAccumulator, SumsTheTreesOfGroups) {
  for (const int group : {1, 2, 3, 5, 6, 7}) {
    TreeAccumulator accumulator(kElems, host_flat_memory(), group);
    for (int groups = 1; groups <= 9; ++groups) {
      accumulator.reset();
      for (int leaf = 0; leaf < groups * group; ++leaf) add_leaf(accumulator, leaf);
      std::vector<float> expected;
      for (std::int64_t i = 0; i < kElems; ++i) expected.push_back(grouped_tree_of_random(0, groups, group, i));
      EXPECT_EQ(testing::compare_bits(to_vector(accumulator.result()), expected), "equal")
          << groups << " groups of " << group;
    }
  }
}

// The sum of `leaves` over `ranks`, each with an equal share of them.
std::vector<float> sum_over_ranks(int leaves, int ranks) {
  const int share = leaves / ranks;
  std::vector<std::vector<float>> sums;
  for (int rank = 0; rank < ranks; ++rank) {
    TreeAccumulator accumulator(kElems, host_flat_memory(), odd_part(share));
    for (int i = 0; i < share; ++i) add_leaf(accumulator, rank * share + i);
    sums.push_back(to_vector(accumulator.result()));
  }
  std::vector<const void*> inputs;
  for (const std::vector<float>& sum : sums) inputs.push_back(sum.data());
  std::vector<float> total(kElems);
  tree_reduce(ReduceOp::kSum, DType::kFloat32, inputs, total.data(), kElems);
  return total;
}

TEST(TreeAccumulator, RanksContinueItsTreeForEveryCountOfLeaves) {
  for (const int leaves : {8, 24, 40, 48, 56}) {
    for (const int odd : {1, 3, 5}) {
      if (leaves % odd != 0) continue;
      const std::vector<float> few = sum_over_ranks(leaves, odd);
      for (int ranks = 2 * odd; leaves % ranks == 0; ranks *= 2)
        EXPECT_EQ(testing::compare_bits(sum_over_ranks(leaves, ranks), few), "equal")
            << leaves << " leaves on " << ranks << " ranks and on " << odd;
    }
  }
  EXPECT_NE(sum_over_ranks(24, 3), sum_over_ranks(24, 1)) << "no tree has both eighths and thirds as its branches";
}

TEST(TreeAccumulator, EveryLeafStartsFromZero) {
  TreeAccumulator accumulator(kElems);
  for (int turn = 0; turn < 6; ++turn) {
    const std::span<float> leaf = accumulator.next();
    ASSERT_EQ(static_cast<std::int64_t>(leaf.size()), kElems);
    EXPECT_TRUE(std::all_of(leaf.begin(), leaf.end(), [](float value) { return value == 0.0F; })) << turn;
    std::fill(leaf.begin(), leaf.end(), 3.0F);
    accumulator.commit();
  }
}

TEST(TreeAccumulator, ASingleLeafIsTheResultWithoutACopy) {
  TreeAccumulator accumulator(kElems);
  const float* const leaf = accumulator.next().data();
  accumulator.commit();
  EXPECT_EQ(accumulator.result().data(), leaf);
}

// Host memory that counts what is asked of it.
class CountingMemory final : public FlatMemory {
 public:
  std::shared_ptr<float> allocate(std::int64_t elems) override {
    ++allocations;
    return host_->allocate(elems);
  }
  void zero(std::span<float> values) override {
    ++zeroings;
    host_->zero(values);
  }
  void add(std::span<float> a, std::span<const float> b) override {
    ++additions;
    host_->add(a, b);
  }
  void copy(std::span<float> a, std::span<const float> b) override { host_->copy(a, b); }
  int allocations = 0;
  int zeroings = 0;
  int additions = 0;

 private:
  std::shared_ptr<FlatMemory> host_ = host_flat_memory();
};

TEST(TreeAccumulator, NeedsOneBufferMoreThanTheLogarithmOfTheLeaves) {
  TreeAccumulator accumulator(kElems);
  std::set<const float*> buffers;
  for (int turn = 0; turn < 2; ++turn) {
    for (int leaf = 0; leaf < 64; ++leaf) {
      buffers.insert(accumulator.next().data());
      accumulator.commit();
    }
    accumulator.result();
    accumulator.reset();
  }
  EXPECT_EQ(buffers.size(), 7U);  // partial sums of 32, 16, 8, 4, 2, 1 leaves, and the one being filled
  const auto memory = std::make_shared<CountingMemory>();
  TreeAccumulator groups(kElems, memory, /*group=*/3);
  for (int leaf = 0; leaf < 48; ++leaf) add_leaf(groups, leaf);
  EXPECT_EQ(memory->allocations, 6);  // partial sums of 8, 4, 2, 1 groups, of two leaves, and the one being filled
}

TEST(TreeAccumulator, NoLeafIsASumOfZero) {
  TreeAccumulator accumulator(3);
  EXPECT_EQ(to_vector(accumulator.result()), std::vector<float>(3, 0.0F));
}

TEST(TreeAccumulator, ZeroesOnlyWhenAskedAndWorksInTheMemoryItIsGiven) {
  const auto memory = std::make_shared<CountingMemory>();
  TreeAccumulator accumulator(kElems, memory);
  for (int turn = 0; turn < 2; ++turn) {
    accumulator.reset();
    for (int leaf = 0; leaf < 4; ++leaf) {
      const std::vector<float> values = testing::random_leaf(leaf, kElems);
      std::copy(values.begin(), values.end(), accumulator.next(/*zeroed=*/false).begin());
      accumulator.commit();
    }
    std::vector<float> expected;
    for (std::int64_t i = 0; i < kElems; ++i) expected.push_back(testing::tree_of_random(0, 4, i));
    EXPECT_EQ(testing::compare_bits(to_vector(accumulator.result()), expected), "equal") << turn;
  }
  EXPECT_EQ(memory->allocations, 3);
  EXPECT_EQ(memory->zeroings, 0);
  EXPECT_EQ(memory->additions, 2 * 3);
  accumulator.reset();
  accumulator.next();
  EXPECT_EQ(memory->zeroings, 1) << "a used buffer";
}

TEST(TreeAccumulator, ARunningSumAddsLeafAfterLeafInOneBufferBesideTheLeafs) {
  const auto memory = std::make_shared<CountingMemory>();
  TreeAccumulator accumulator(kElems, recycling_memory(memory), /*group=*/1, SumOrder::kRunning);
  for (int turn = 0; turn < 2; ++turn) {
    accumulator.reset();
    std::vector<float> expected = testing::random_leaf(0, kElems);
    for (int leaf = 0; leaf < 7; ++leaf) {
      add_leaf(accumulator, leaf);
      for (std::int64_t i = 0; i < kElems && leaf > 0; ++i)
        expected[static_cast<std::size_t>(i)] += testing::random_float(leaf, i);
    }
    EXPECT_EQ(accumulator.leaves(), 7);
    EXPECT_EQ(testing::compare_bits(to_vector(accumulator.result()), expected), "equal");
  }
  EXPECT_EQ(memory->allocations, 2);
}

TEST(TreeAccumulator, RunningSumsShareTheBuffersOfTheirLeaves) {
  const auto memory = std::make_shared<CountingMemory>();
  const std::shared_ptr<FlatMemory> recycling = recycling_memory(memory);
  TreeAccumulator large(kElems, recycling, 1, SumOrder::kRunning),
      small(kElems - 100, recycling, 1, SumOrder::kRunning);
  for (int leaf = 0; leaf < 3; ++leaf) {
    for (TreeAccumulator* const one : {&large, &small}) {
      const std::span<float> values = one->next();
      EXPECT_TRUE(std::all_of(values.begin(), values.end(), [](float value) { return value == 0.0F; })) << leaf;
      std::fill(values.begin(), values.end(), 2.0F);
      one->commit();
    }
  }
  EXPECT_EQ(memory->allocations, 3);  // two sums, and a leaf large enough for both
  EXPECT_EQ(to_vector(small.result()), std::vector<float>(kElems - 100, 6.0F));
  EXPECT_EQ(to_vector(large.result()), std::vector<float>(kElems, 6.0F));
}

TEST(RecyclingMemory, HandsOutTheSmallestThatSufficesZeroed) {
  const auto memory = std::make_shared<CountingMemory>();
  const std::shared_ptr<FlatMemory> recycling = recycling_memory(memory);
  std::shared_ptr<float> ten = recycling->allocate(10), thirty = recycling->allocate(30);
  float *const ten_at = ten.get(), *const thirty_at = thirty.get();
  std::fill_n(ten_at, 10, 1.0F), std::fill_n(thirty_at, 30, 1.0F);
  EXPECT_NE(recycling->allocate(10).get(), ten_at) << "in use";
  EXPECT_EQ(memory->allocations, 3);
  ten.reset(), thirty.reset();
  const std::shared_ptr<float> twenty = recycling->allocate(20);
  EXPECT_EQ(twenty.get(), thirty_at);
  EXPECT_EQ(std::vector<float>(thirty_at, thirty_at + 20), std::vector<float>(20, 0.0F));
  EXPECT_EQ(memory->allocations, 3);
  const std::shared_ptr<float> forty = recycling->allocate(40);
  EXPECT_EQ(memory->allocations, 4) << "nothing suffices";
}

TEST(TreeAccumulator, RefusesCallsOutOfOrder) {
  TreeAccumulator accumulator(3);
  EXPECT_THROW(accumulator.commit(), Error) << "nothing to commit";
  accumulator.next();
  EXPECT_THROW(accumulator.next(), Error) << "the last leaf is not committed";
  EXPECT_THROW(accumulator.result(), Error) << "the last leaf is not committed";
  accumulator.commit();
  accumulator.result();
  EXPECT_THROW(accumulator.next(), Error) << "the tree is closed";
  accumulator.reset();
  EXPECT_NO_THROW(accumulator.next());
}

TEST(TreeAccumulator, SaysBeforehandHowManyBuffersASumTakes) {
  for (int leaves = 1; leaves <= 40; ++leaves) {
    for (const std::int64_t group : {std::int64_t{1}, odd_part(leaves)}) {
      TreeAccumulator accumulator(kElems, host_flat_memory(), group);
      std::set<const float*> buffers;
      for (int leaf = 0; leaf < leaves; ++leaf) {
        buffers.insert(accumulator.next().data());
        accumulator.commit();
      }
      EXPECT_EQ(TreeAccumulator::buffers(leaves), static_cast<int>(buffers.size())) << leaves << " by " << group;
    }
  }
}

}  // namespace
}  // namespace qat::dist
