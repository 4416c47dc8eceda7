// Tensors one after the other in a flat buffer, cut into buckets of whole tensors, and every bucket into equal shards
// for the ranks.
//
//   tensors           t0......   t1..   t2..........   t3....   t4..     each begins at a multiple of `block`
//   buckets          |          0                    |        1       |  whole tensors; multiples of `pad_to`
//   shards, 2 ranks  |    0     |        1           |   0    |   1   |  equal within a bucket
//
// Where `pad_to` is a multiple of `block` times the ranks, shards are cut at multiples of `block` too: elements
// [k block, (k+1) block) of a tensor are on one rank, however many ranks and buckets there are. What lies between
// tensors is never written: zeros stay zeros in every sum.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace qat::dist {

// Elements [begin, end) of a flat buffer.
struct ShardRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const noexcept { return end - begin; }
};

// 32 MiB of fp32: large enough for the links' full bandwidth, small enough that several are under way in a backward
// pass.
constexpr std::int64_t kBucketElems = std::int64_t{8} << 20;

// Of every bucket, one rank's shard.
using BucketShards = std::vector<std::span<const float>>;

struct FlatLayoutOptions {
  std::int64_t block = 1;
  std::int64_t pad_to = 1;
  std::int64_t bucket_elems = kBucketElems;  // a bucket takes no further tensor that would make it larger
  int exact_from = -1;      // this tensor begins a bucket; it and those after it are never encoded. -1: none
  std::vector<int> begins;  // these tensors begin buckets, too; ascending
};

class FlatLayout {
 public:
  struct Tensor {
    std::int64_t offset = 0;
    std::int64_t elems = 0;
    int bucket = 0;
  };
  struct Bucket {
    ShardRange range;
    int first_tensor = 0, tensors = 0;
    bool exact = false;  // travels as fp32 on any wire
  };
  // Where an element is kept when every rank keeps its shards of all buckets, one after the other.
  struct Owner {
    int rank = 0;
    std::int64_t offset = 0;  // in what that rank keeps
  };

  FlatLayout() = default;
  FlatLayout(std::span<const std::int64_t> tensor_elems, const FlatLayoutOptions& options);

  std::int64_t elems() const noexcept { return buckets_.empty() ? 0 : buckets_.back().range.end; }  // with all gaps
  const std::vector<Tensor>& tensors() const noexcept { return tensors_; }
  const std::vector<Bucket>& buckets() const noexcept { return buckets_; }

  // The rest is for `ranks` that divide every bucket. What one of them keeps:
  std::int64_t own_elems(int ranks) const noexcept { return elems() / ranks; }
  ShardRange shard(int bucket, int rank, int ranks) const;
  // Where a shard begins in what its rank keeps.
  std::int64_t own_offset(int bucket, int ranks) const;
  Owner owner(std::int64_t element, int bucket, int ranks) const;

 private:
  std::vector<Tensor> tensors_;
  std::vector<Bucket> buckets_;
};

}  // namespace qat::dist
