// One flat buffer of gradients (or parameters), cut into equal shards over the data-parallel ranks.
#pragma once

#include <cstdint>
#include <span>

#include "dist/comm/communicator.h"
#include "dist/grad/flat_layout.h"

namespace qat::dist {

class GradReducer {
 public:
  // Pads `elems` until every rank's shard is the same multiple of `block` elements (of what shares one scale, say).
  // The group must outlive the reducer. Buffers are in the memory of `device`; on a GPU the calls below are ordered on
  // `stream` and return before they are done.
  GradReducer(Communicator& group, std::int64_t elems, std::int64_t block, Device device = Device::kCpu,
              StreamRef stream = {});

  std::int64_t elems() const noexcept { return elems_; }
  std::int64_t padded_elems() const noexcept { return shard_elems_ * group_.size(); }
  ShardRange shard() const noexcept { return shard(group_.rank()); }
  ShardRange shard(int rank) const noexcept { return {shard_elems_ * rank, shard_elems_ * (rank + 1)}; }

  // full: [padded_elems]. Afterwards this rank's shard of it holds the sum over the ranks; the rest is unspecified.
  void reduce_scatter(std::span<float> full);
  // full: [padded_elems]. Every rank's shard, from the rank that owns it.
  void all_gather(std::span<float> full);

 private:
  std::span<float> own_part(std::span<float> full) const;
  BufferView buffer(std::span<float> values) const;

  Communicator& group_;
  std::int64_t elems_;
  std::int64_t shard_elems_;
  Device device_;
  StreamRef stream_;
};

}  // namespace qat::dist
