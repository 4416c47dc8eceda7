#include "dist/grad/tree_accumulator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

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
}

TEST(TreeAccumulator, NoLeafIsASumOfZero) {
  TreeAccumulator accumulator(3);
  EXPECT_EQ(to_vector(accumulator.result()), std::vector<float>(3, 0.0F));
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
  int allocations = 0;
  int zeroings = 0;
  int additions = 0;

 private:
  std::shared_ptr<FlatMemory> host_ = host_flat_memory();
};

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

}  // namespace
}  // namespace qat::dist
