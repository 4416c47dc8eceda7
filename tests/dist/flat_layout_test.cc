// Where tensors, buckets and shards are cut.
#include "dist/grad/flat_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

TEST(FlatLayout, TensorsBeginAtBlocksAndBucketsAreWholeTensors) {
  const FlatLayout layout(std::vector<std::int64_t>{5, 4, 9, 1, 2}, {.block = 4, .pad_to = 8, .bucket_elems = 17});
  std::vector<std::int64_t> offsets;
  std::vector<int> buckets;
  for (const FlatLayout::Tensor& tensor : layout.tensors()) {
    offsets.push_back(tensor.offset);
    buckets.push_back(tensor.bucket);
  }
  EXPECT_EQ(offsets, (std::vector<std::int64_t>{0, 8, 16, 28, 32}));  // 8 + 4 elements, 4 of padding; 12 + 4; 4 + 4
  EXPECT_EQ(buckets, (std::vector<int>{0, 0, 1, 1, 2}));
  ASSERT_EQ(layout.buckets().size(), 3U);
  EXPECT_EQ(layout.buckets()[1].range.begin, 16);
  EXPECT_EQ(layout.buckets()[1].range.end, 32);
  EXPECT_EQ(layout.buckets()[1].first_tensor, 2);
  EXPECT_EQ(layout.buckets()[1].tensors, 2);
  EXPECT_EQ(layout.elems(), 40);
}

TEST(FlatLayout, ATensorLargerThanABucketHasOneOfItsOwn) {
  const FlatLayout layout(std::vector<std::int64_t>{3, 100, 3}, {.block = 4, .pad_to = 4, .bucket_elems = 16});
  ASSERT_EQ(layout.buckets().size(), 3U);
  EXPECT_EQ(layout.buckets()[1].range.size(), 100);
}

TEST(FlatLayout, TensorsThatAreNotEncodedHaveBucketsOfTheirOwn) {
  const FlatLayout layout(std::vector<std::int64_t>{3, 3, 3, 3, 9},
                          {.block = 4, .pad_to = 4, .bucket_elems = 16, .exact_from = 2});
  std::vector<int> buckets;
  for (const FlatLayout::Tensor& tensor : layout.tensors()) buckets.push_back(tensor.bucket);
  EXPECT_EQ(buckets, (std::vector<int>{0, 0, 1, 1, 2}));
  EXPECT_FALSE(layout.buckets()[0].exact);
  EXPECT_TRUE(layout.buckets()[1].exact);
  EXPECT_TRUE(layout.buckets()[2].exact);
  const FlatLayout all(std::vector<std::int64_t>{3}, {.exact_from = 0});
  EXPECT_TRUE(all.buckets()[0].exact);
}

TEST(FlatLayout, NothingIsALayoutToo) {
  const FlatLayout layout({}, {});
  EXPECT_EQ(layout.elems(), 0);
  EXPECT_TRUE(layout.buckets().empty());
  EXPECT_EQ(layout.own_elems(3), 0);
}

// Whatever the numbers of ranks and the buckets' size: every element is one rank's, in a place of its own there, and a
// block of a tensor is never two ranks'.
TEST(FlatLayout, EveryElementHasOneOwnerAndShardsAreCutAtBlocks) {
  constexpr std::int64_t kBlock = 8;
  const std::vector<std::int64_t> elems = {40, 3, 8, 17, 1, 64, 9, 2, 31};
  for (const int ranks : {1, 2, 3, 4, 6, 8}) {
    for (const std::int64_t bucket_elems : {std::int64_t{1}, std::int64_t{50}, std::int64_t{1000}}) {
      const FlatLayout layout(elems, {.block = kBlock, .pad_to = kBlock * ranks, .bucket_elems = bucket_elems});
      std::vector<std::vector<int>> kept(static_cast<std::size_t>(ranks),
                                         std::vector<int>(static_cast<std::size_t>(layout.own_elems(ranks)), 0));
      for (std::size_t b = 0; b < layout.buckets().size(); ++b) {
        const auto bucket = static_cast<int>(b);
        std::int64_t end = layout.buckets()[b].range.begin;
        for (int rank = 0; rank < ranks; ++rank) {
          const ShardRange shard = layout.shard(bucket, rank, ranks);
          EXPECT_EQ(shard.begin, end);
          EXPECT_EQ(shard.size() % kBlock, 0);
          end = shard.end;
          for (std::int64_t at = shard.begin; at < shard.end; ++at) {
            const FlatLayout::Owner owner = layout.owner(at, bucket, ranks);
            EXPECT_EQ(owner.rank, rank);
            EXPECT_EQ(owner.offset, layout.own_offset(bucket, ranks) + at - shard.begin);
            ++kept[static_cast<std::size_t>(rank)].at(static_cast<std::size_t>(owner.offset));
          }
        }
        EXPECT_EQ(end, layout.buckets()[b].range.end);
      }
      for (const std::vector<int>& of_rank : kept)
        EXPECT_TRUE(std::all_of(of_rank.begin(), of_rank.end(), [](int times) { return times == 1; }));
      for (const FlatLayout::Tensor& tensor : layout.tensors()) {
        EXPECT_EQ(tensor.offset % kBlock, 0);
        for (std::int64_t first = 0; first < tensor.elems; first += kBlock) {
          const std::int64_t last = std::min(first + kBlock, tensor.elems) - 1;
          EXPECT_EQ(layout.owner(tensor.offset + first, tensor.bucket, ranks).rank,
                    layout.owner(tensor.offset + last, tensor.bucket, ranks).rank);
        }
      }
    }
  }
}

TEST(FlatLayout, RanksThatDoNotDivideItAreRefused) {
  const FlatLayout layout(std::vector<std::int64_t>{10}, {.block = 4, .pad_to = 8});
  EXPECT_EQ(layout.shard(0, 1, 2).size(), 8);
  EXPECT_THROW((void)layout.shard(0, 0, 3), Error);
  EXPECT_THROW((void)layout.shard(0, 2, 2), Error);
}

}  // namespace
}  // namespace qat::dist
