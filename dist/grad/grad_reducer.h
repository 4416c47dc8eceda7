// One flat buffer of gradients (or parameters), cut into equal shards over the ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "dist/comm/communicator.h"
#include "dist/grad/flat_layout.h"
#include "dist/grad/grad_wire.h"
#include "dist/grad/wire_staging.h"
#include "kernels/common/exec.h"

namespace qat::dist {

struct GradReducerOptions {
  // Where buffers are, and the stream that calls are ordered on: they return before they are done.
  kernels::Exec exec{};
  GradWire wire{};
  const NodeGroups* nodes = nullptr;     // two levels; null: one
  std::shared_ptr<WireStaging> staging;  // needed where gradients are encoded
};

// The part of the last sums that this rank's codes did not carry (Seide et al., 2014; Karimireddy et al., 2019), to be
// added to the next. Both empty: none is kept.
struct Feedback {
  std::span<const float> residual;  // [elems], added to what is encoded
  std::span<float> own_left;        // [shard], what is left of this rank's shard
};

class GradReducer {
 public:
  // Of buffers of `elems` elements, a multiple of the number of ranks. The groups must outlive the reducer. With int4
  // a shard is an even number of elements; with codes on two levels it is a multiple of the block.
  GradReducer(Communicator& group, std::int64_t elems, GradReducerOptions options = {});

  std::int64_t elems() const noexcept { return elems_; }
  ShardRange shard() const noexcept { return {shard_elems() * group_->rank(), shard_elems() * (group_->rank() + 1)}; }

  // full: [elems]. Afterwards this rank's shard of it holds the sum over the ranks. The rest is as it was, but with
  // feedback: what is left of it then. rounding: of its draws `first` is the first element's; every rank's are its own.
  void reduce_scatter(std::span<float> full, const Feedback& feedback = {}, kernels::WireRounding rounding = {});
  // The same without codes, whatever the wire.
  void reduce_scatter_exact(std::span<float> full);

  // What this rank sends to others in a reduce_scatter(), with its scales; and in fp32.
  std::int64_t sent_bytes() const;
  std::int64_t fp32_bytes() const { return 4 * shard_elems() * (group_->size() - 1); }

 private:
  std::int64_t shard_elems() const noexcept { return elems_ / group_->size(); }
  bool is_direct() const { return options_.wire.is_exact() && options_.nodes == nullptr; }
  bool shares_scales() const {
    return kernels::has_codes(options_.wire.format) && options_.wire.sum == WireSum::kCodeSum;
  }
  int places() const { return options_.nodes == nullptr ? group_->size() : options_.nodes->places(); }
  int nodes() const { return options_.nodes == nullptr ? 1 : options_.nodes->nodes(); }
  kernels::WireShape shape() const;
  kernels::WireInteger wide() const { return kernels::integer_for_sum(options_.wire.format, places()); }
  std::span<float> own_part(std::span<float> full) const;
  BufferView buffer(std::span<float> values) const;
  BufferView buffer(std::span<std::uint8_t> values) const;
  void reserve();
  void copy(std::span<float> to, std::span<const float> from) const;
  // From every rank of the group (on two levels: of the node) its message of `bytes` to this one.
  std::span<std::uint8_t> exchange(Communicator& group, WireStaging::Slot from, WireStaging::Slot to,
                                   std::int64_t bytes) const;
  // This rank's shard from everybody's messages.
  void add_codes(std::span<float> own);
  void add_values(std::span<float> own);

  Communicator* group_;
  std::int64_t elems_;
  GradReducerOptions options_;
};

}  // namespace qat::dist
