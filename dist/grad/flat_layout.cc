#include "dist/grad/flat_layout.h"

#include <algorithm>
#include <numeric>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

FlatLayout::FlatLayout(std::span<const std::int64_t> tensor_elems, const FlatLayoutOptions& options) {
  QAT_CHECK(options.block >= 1 && options.pad_to >= 1, "buckets are multiples of something");
  const std::int64_t unit = std::lcm(options.block, options.pad_to);  // so that the next bucket begins at a block
  std::int64_t end = 0;                                               // of the blocks so far
  const auto close = [&] {
    if (buckets_.empty()) return;
    ShardRange& range = buckets_.back().range;
    end = range.end = range.begin + round_up(end - range.begin, unit);
  };
  for (const std::int64_t elems : tensor_elems) {
    QAT_CHECK(elems >= 0, "a negative number of elements");
    const auto index = static_cast<int>(tensors_.size());
    if (buckets_.empty() || index == options.exact_from ||
        std::binary_search(options.begins.begin(), options.begins.end(), index) ||
        end - buckets_.back().range.begin + elems > options.bucket_elems) {
      close();
      buckets_.push_back({.range = {end, end},
                          .first_tensor = index,
                          .exact = options.exact_from >= 0 && index >= options.exact_from});
    }
    tensors_.push_back({.offset = end, .elems = elems, .bucket = static_cast<int>(buckets_.size()) - 1});
    ++buckets_.back().tensors;
    end += round_up(elems, options.block);
  }
  close();
}

ShardRange FlatLayout::shard(int bucket, int rank, int ranks) const {
  const ShardRange& range = buckets_.at(static_cast<std::size_t>(bucket)).range;
  QAT_CHECK(rank >= 0 && rank < ranks && range.size() % ranks == 0, "ranks have equal shards of a bucket");
  const std::int64_t elems = range.size() / ranks;
  return {range.begin + rank * elems, range.begin + (rank + 1) * elems};
}

std::int64_t FlatLayout::own_offset(int bucket, int ranks) const {
  return buckets_.at(static_cast<std::size_t>(bucket)).range.begin / ranks;
}

FlatLayout::Owner FlatLayout::owner(std::int64_t element, int bucket, int ranks) const {
  const std::int64_t begin = buckets_.at(static_cast<std::size_t>(bucket)).range.begin;
  const std::int64_t elems = shard(bucket, 0, ranks).size();
  return {.rank = static_cast<int>((element - begin) / elems),
          .offset = own_offset(bucket, ranks) + (element - begin) % elems};
}

}  // namespace qat::dist
