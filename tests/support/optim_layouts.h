// Tensors in two groups, for tests of what is cut over ranks.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "src/optim/optim_layout.h"
#include "src/optim/sharded_adamw.h"

namespace qat::test {

// Buckets of single tensors, of several, and one for each group.
constexpr std::array<std::int64_t, 3> kBucketSizes = {1, 4 * kNormBlock, 1000 * kNormBlock};

// The elements of seven tensors, in the order of the norm; the groups take turns.
inline const std::vector<std::int64_t> kTensorElems = {3 * kNormBlock,     5,  2 * kNormBlock + 77, kNormBlock, 1,
                                                       7 * kNormBlock - 1, 300};

inline OptimLayout two_groups(int ranks, std::int64_t bucket_elems) {
  OptimLayout layout{.ranks = ranks};
  std::array<std::vector<std::int64_t>, 2> elems;
  for (std::size_t i = 0; i < kTensorElems.size(); ++i) {
    std::vector<std::int64_t>& group = elems[i % 2];
    layout.tensors.push_back(
        {.group = static_cast<int>(i % 2), .index = static_cast<int>(group.size()), .decay = i != 2});
    group.push_back(kTensorElems[i]);
  }
  for (const std::vector<std::int64_t>& group : elems)
    layout.groups.push_back(
        {.layout = dist::FlatLayout(
             group, {.block = kNormBlock, .pad_to = kNormBlock * ranks, .bucket_elems = bucket_elems})});
  return layout;
}

// A flat buffer for each group, with value(tensor, element) in the tensors and zeros between them.
template <typename Value>
std::vector<std::vector<float>> flat_values(const OptimLayout& layout, const Value& value) {
  std::vector<std::vector<float>> flat;
  for (const OptimGroup& group : layout.groups) flat.emplace_back(static_cast<std::size_t>(group.layout.elems()));
  for (std::size_t t = 0; t < layout.tensors.size(); ++t) {
    const dist::FlatLayout::Tensor& place = layout.place(layout.tensors[t]);
    for (std::int64_t i = 0; i < place.elems; ++i)
      flat[static_cast<std::size_t>(layout.tensors[t].group)][static_cast<std::size_t>(place.offset + i)] = value(t, i);
  }
  return flat;
}

// One rank's shards of such buffers.
inline std::vector<dist::BucketShards> shards_of(const OptimLayout& layout, int rank,
                                                 const std::vector<std::vector<float>>& flat) {
  std::vector<dist::BucketShards> shards(layout.groups.size());
  for (std::size_t g = 0; g < layout.groups.size(); ++g)
    for (std::size_t b = 0; b < layout.groups[g].layout.buckets().size(); ++b) {
      const dist::ShardRange shard = layout.groups[g].layout.shard(static_cast<int>(b), rank, layout.ranks);
      shards[g].push_back(std::span<const float>(flat[g]).subspan(static_cast<std::size_t>(shard.begin),
                                                                  static_cast<std::size_t>(shard.size())));
    }
  return shards;
}

// The same of values that are to be updated.
inline std::vector<ShardValues> shards_to_update(const OptimLayout& layout, int rank,
                                                 std::vector<std::vector<float>>& flat) {
  std::vector<ShardValues> shards(layout.groups.size());
  for (std::size_t g = 0; g < layout.groups.size(); ++g)
    for (std::size_t b = 0; b < layout.groups[g].layout.buckets().size(); ++b) {
      const dist::ShardRange shard = layout.groups[g].layout.shard(static_cast<int>(b), rank, layout.ranks);
      shards[g].push_back(
          std::span(flat[g]).subspan(static_cast<std::size_t>(shard.begin), static_cast<std::size_t>(shard.size())));
    }
  return shards;
}

}  // namespace qat::test
