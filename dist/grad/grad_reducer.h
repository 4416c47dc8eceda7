// One flat buffer of gradients (or parameters), cut into equal shards over the ranks.
#pragma once

#include <cstdint>
#include <span>

#include "dist/comm/communicator.h"
#include "dist/grad/flat_layout.h"

namespace qat::dist {

class GradReducer {
 public:
  // Of buffers of `elems` elements, a multiple of the number of ranks. The group must outlive the reducer. Buffers are
  // in the memory of `device`; on a GPU the calls below are ordered on `stream` and return before they are done.
  GradReducer(Communicator& group, std::int64_t elems, Device device = Device::kCpu, StreamRef stream = {});

  std::int64_t elems() const noexcept { return elems_; }
  ShardRange shard() const noexcept { return {shard_elems() * group_->rank(), shard_elems() * (group_->rank() + 1)}; }

  // full: [elems]. Afterwards this rank's shard of it holds the sum over the ranks; the rest is as it was.
  void reduce_scatter(std::span<float> full);
  // full: [elems]. Every rank's shard, from the rank that owns it.
  void all_gather(std::span<float> full);

 private:
  std::int64_t shard_elems() const noexcept { return elems_ / group_->size(); }
  std::span<float> own_part(std::span<float> full) const;
  BufferView buffer(std::span<float> values) const;

  Communicator* group_;
  std::int64_t elems_;
  Device device_;
  StreamRef stream_;
};

}  // namespace qat::dist
