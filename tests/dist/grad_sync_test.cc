// The gradient of a group over passes and ranks: its bits, and what is refused.
#include "dist/grad/grad_sync.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "dist/comm/local_comm.h"
#include "kernels/common/error.h"
#include "tests/dist/random_leaves.h"

namespace qat::dist {
namespace {

constexpr std::int64_t kBlock = 8;
const std::vector<std::int64_t> kTensors = {40, 3, 17, 64, 9};

FlatLayout layout_for(int ranks, std::int64_t bucket_elems = 50) {
  return FlatLayout(kTensors, {.block = kBlock, .pad_to = kBlock * ranks, .bucket_elems = bucket_elems});
}

// Element `element` of tensor `tensor` in pass `pass` of the global batch.
float gradient(int pass, std::size_t tensor, std::int64_t element) {
  return testing::random_float(pass, static_cast<std::int64_t>(tensor) * 20 + element);
}

void write(const FlatLayout& layout, int bucket, int pass, std::span<float> leaf) {
  const FlatLayout::Bucket& which = layout.buckets()[static_cast<std::size_t>(bucket)];
  for (int t = which.first_tensor; t < which.first_tensor + which.tensors; ++t) {
    const FlatLayout::Tensor& tensor = layout.tensors()[static_cast<std::size_t>(t)];
    for (std::int64_t i = 0; i < tensor.elems; ++i)
      leaf[static_cast<std::size_t>(tensor.offset - which.range.begin + i)] =
          gradient(pass, static_cast<std::size_t>(t), i);
  }
}

// Buckets from the last to the first, as backward comes to them.
void pass(GradSync& sync, int number) {
  for (int bucket = static_cast<int>(sync.layout().buckets().size()) - 1; bucket >= 0; --bucket) {
    write(sync.layout(), bucket, number, sync.leaf(bucket));
    sync.commit(bucket);
  }
  sync.end_pass();
}

// The tensors' gradients over `passes` of the global batch, one after the other, from all ranks' shards.
std::vector<float> sum_over(int ranks, int passes, std::int64_t bucket_elems, GradSyncOptions options = {}) {
  const FlatLayout layout = layout_for(ranks, bucket_elems);
  std::vector<float> flat(static_cast<std::size_t>(layout.elems()));
  run_local_ranks(ranks, [&](Communicator& comm) {
    GradSyncOptions own = options;
    own.group = odd_part(passes / ranks);
    GradSync sync(comm, layout, host_flat_memory(), own);
    for (int step = 0; step < 2; ++step) {  // the second in buffers that hold the first
      sync.start(passes / ranks);
      for (int i = 0; i < passes / ranks; ++i) pass(sync, comm.rank() * (passes / ranks) + i);
      const BucketShards& shards = sync.finish();
      for (std::size_t b = 0; b < shards.size(); ++b)
        std::copy(shards[b].begin(), shards[b].end(),
                  flat.begin() + layout.shard(static_cast<int>(b), comm.rank(), ranks).begin);
    }
  });
  std::vector<float> sum;
  for (const FlatLayout::Tensor& tensor : layout.tensors()) {
    sum.insert(sum.end(), flat.begin() + tensor.offset, flat.begin() + tensor.offset + tensor.elems);
    std::fill_n(flat.begin() + tensor.offset, tensor.elems, 0.0F);
  }
  EXPECT_EQ(flat, std::vector<float>(flat.size())) << "between the tensors";
  return sum;
}

std::vector<float> tree_by_hand(int passes) {
  std::vector<float> sum;
  for (std::size_t t = 0; t < kTensors.size(); ++t)
    for (std::int64_t i = 0; i < kTensors[t]; ++i)
      sum.push_back(testing::tree_of_random(0, passes, static_cast<std::int64_t>(t) * 20 + i));
  return sum;
}

TEST(GradSync, RanksAndBucketsChangeNoBitOfTheTree) {
  const std::vector<float> expected = tree_by_hand(8);
  for (const int ranks : {1, 2, 4, 8})
    for (const std::int64_t bucket_elems : {1, 50, 1000})
      EXPECT_EQ(testing::compare_bits(sum_over(ranks, 8, bucket_elems), expected), "equal")
          << ranks << " ranks, buckets of " << bucket_elems;
  EXPECT_EQ(testing::compare_bits(sum_over(6, 24, 50), sum_over(3, 24, 1000)), "equal");
}

TEST(GradSync, ARunningSumAddsARanksPassesOneAfterTheOther) {
  std::vector<float> expected;
  for (std::size_t t = 0; t < kTensors.size(); ++t)
    for (std::int64_t i = 0; i < kTensors[t]; ++i) {
      float halves[2] = {};
      for (int number = 0; number < 8; ++number) {
        float& sum = halves[number / 4];
        sum = number % 4 == 0 ? gradient(number, t, i) : sum + gradient(number, t, i);
      }
      expected.push_back(halves[0] + halves[1]);
    }
  EXPECT_EQ(testing::compare_bits(sum_over(2, 8, 50, {.order = SumOrder::kRunning}), expected), "equal");
  EXPECT_NE(testing::compare_bits(tree_by_hand(8), expected), "equal");
}

TEST(GradSync, ABucketIsNotExchangedBeforeItsLastLeaf) {
  const FlatLayout layout = layout_for(1);
  ASSERT_GE(layout.buckets().size(), 3U);
  const auto comm = make_single_comm();
  GradSync sync(*comm, layout, host_flat_memory(), {});
  sync.start(2);
  pass(sync, 0);
  EXPECT_THROW((void)sync.finish(), Error);  // a pass is missing
  (void)sync.leaf(1);
  EXPECT_THROW((void)sync.finish(), Error);  // and one bucket of it
  sync.commit(1);
  EXPECT_THROW((void)sync.finish(), Error);
  EXPECT_THROW(sync.end_pass(), Error);  // the others lack their gradients
  for (int bucket = 0; bucket < static_cast<int>(layout.buckets().size()); ++bucket) {
    if (bucket == 1) continue;
    (void)sync.leaf(bucket);
    sync.commit(bucket);
  }
  sync.end_pass();
  EXPECT_EQ(sync.finish().size(), layout.buckets().size());
}

TEST(GradSync, RefusesCallsOutOfOrder) {
  const FlatLayout layout = layout_for(1);
  const auto comm = make_single_comm();
  GradSync sync(*comm, layout, host_flat_memory(), {});
  EXPECT_THROW((void)sync.leaf(0), Error);  // no step
  sync.start(1);
  EXPECT_THROW(sync.commit(0), Error);  // no leaf
  const float* const leaf = sync.leaf(0).data();
  EXPECT_EQ(sync.leaf(0).data(), leaf);
  sync.commit(0);
  EXPECT_THROW((void)sync.leaf(0), Error);  // it is in the sum
  EXPECT_THROW(sync.commit(0), Error);
  sync.start(1);
  pass(sync, 0);
  EXPECT_THROW((void)sync.leaf(0), Error);  // a pass too many
}

TEST(GradSync, ARankThatGivesUpTakesPartWithZeros) {
  const FlatLayout layout = layout_for(2);
  run_local_ranks(2, [&](Communicator& comm) {
    GradSync sync(comm, layout, host_flat_memory(), {});
    sync.start(1);
    if (comm.rank() == 0) {
      pass(sync, 3);
    } else {
      std::fill_n(sync.leaf(1).begin(), 5, 7.0F);
      sync.start(0);
    }
    const BucketShards& shards = sync.finish();
    for (std::size_t b = 0; b < shards.size(); ++b) {
      const ShardRange range = layout.buckets()[b].range;
      std::vector<float> alone(static_cast<std::size_t>(range.size()));
      write(layout, static_cast<int>(b), 3, alone);
      const ShardRange shard = layout.shard(static_cast<int>(b), comm.rank(), 2);
      EXPECT_TRUE(std::equal(shards[b].begin(), shards[b].end(), alone.begin() + (shard.begin - range.begin)));
    }
  });
}

}  // namespace
}  // namespace qat::dist
