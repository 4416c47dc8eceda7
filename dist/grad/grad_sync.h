// The gradient of one group of parameters: from the passes of a step to this rank's shards of the sum over all ranks.
//
//   start(2)
//     pass:  leaf(1) commit(1)   leaf(0) commit(0)   end_pass()        every bucket once, in any order
//     pass:  leaf(1) leaf(0)     commit(1) commit(0) end_pass()
//   finish()
//
// A pass's gradients of a bucket are its leaf: added to the rank's sum when the bucket is committed, so that no pass
// needs memory for gradients before it writes them. The ranks exchange what is complete: a bucket that lacks a leaf is
// an error, never a sum of fewer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "dist/grad/flat_layout.h"
#include "dist/grad/flat_memory.h"
#include "dist/grad/grad_reducer.h"
#include "dist/grad/tree_accumulator.h"

namespace qat::dist {

struct GradSyncOptions {
  SumOrder order = SumOrder::kTree;  // of a rank's leaves
  std::int64_t group = 1;            // TreeAccumulator's
  Device device = Device::kCpu;      // where `memory` is
  StreamRef stream{};
};

class GradSync {
 public:
  // Leaves and sums are `memory`'s, from the first time they are needed on. comm and layout outlive this.
  GradSync(Communicator& comm, const FlatLayout& layout, const std::shared_ptr<FlatMemory>& memory,
           const GradSyncOptions& options);

  const FlatLayout& layout() const noexcept { return *layout_; }

  // A step of so many passes of this rank begins; whatever came before is forgotten. With none, which is also how a
  // rank gives up in the middle of a step, its part of the sum is zero.
  void start(std::int64_t passes);

  // For steps that leave the group alone: gives the memory of leaves and sums back, until the next start().
  void rest();
  bool rests() const noexcept { return resting_; }

  // From one thread at a time, and without a call to the communicator: backward runs on threads of its own.
  // This pass's leaf of a bucket, [the bucket's elements], until it is committed; tensors hold anything, gaps zeros.
  std::span<float> leaf(int bucket);
  // All of the leaf is written.
  void commit(int bucket);
  // The pass is over: all its buckets must be committed.
  void end_pass();

  // Collective, after the last pass. Of each bucket, this rank's shard of the sum over the ranks; valid until start().
  const BucketShards& finish();

  // After finish(): the same shards, which may be changed where they lie.
  std::vector<std::span<float>> own_sums();

  // Collective. values: [layout().elems()]; every shard of every bucket, from the rank that owns it.
  void gather(std::span<float> values);

 private:
  struct Bucket {
    ShardRange range;
    GradReducer reducer;
    TreeAccumulator sum;
    std::span<float> leaf;   // of this pass; empty: not asked for
    bool committed = false;  // in this pass
  };
  Bucket& at(int bucket) { return buckets_.at(static_cast<std::size_t>(bucket)); }

  const FlatLayout* layout_;
  std::vector<Bucket> buckets_;
  BucketShards own_;
  std::int64_t passes_ = 0, passes_done_ = 0;
  bool resting_ = false;
};

}  // namespace qat::dist
