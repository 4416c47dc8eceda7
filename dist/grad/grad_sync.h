// The gradient of one group of parameters: from the passes of a step to this rank's shards of the sum over all ranks.
//
//   start(2)
//     pass:  leaf(1) commit(1)   leaf(0) commit(0)   end_pass()        every bucket once, in any order
//     pass:  leaf(1) leaf(0)     commit(1) commit(0) end_pass()
//   finish()
//
// A pass's gradients of a bucket are its leaf: added to the rank's sum when the bucket is committed, so that no pass
// needs memory for gradients before it writes them. The ranks exchange what is complete: a bucket that lacks a leaf is
// an error, never a sum of fewer. Buckets may be exchanged one by one, by grad_exchange.h, before finish().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "dist/grad/error_feedback.h"
#include "dist/grad/flat_layout.h"
#include "dist/grad/flat_memory.h"
#include "dist/grad/grad_reducer.h"
#include "dist/grad/tree_accumulator.h"

namespace qat::dist {

struct GradSyncOptions {
  SumOrder order = SumOrder::kTree;   // of a rank's leaves
  std::int64_t group = 1;             // TreeAccumulator's
  GradReducerOptions reducer{};       // exec: where `memory` is, and the exchange's stream
  ErrorFeedback* feedback = nullptr;  // of the buckets that are encoded; null: what codes do not carry is lost
};

// How far the sums of codes are from those without, over the elements of all ranks.
struct WireError {
  double squares = 0.0;        // of this rank's shards of the exact sums
  double error_squares = 0.0;  // of the differences
};

class GradSync {
 public:
  // Leaves and sums are `memory`'s, from the first time they are needed on. comm and layout outlive this.
  GradSync(Communicator& comm, const FlatLayout& layout, const std::shared_ptr<FlatMemory>& memory,
           const GradSyncOptions& options);

  const FlatLayout& layout() const noexcept { return *layout_; }

  // A step of so many passes of this rank begins; whatever came before is forgotten. With none, which is also how a
  // rank gives up in the middle of a step, its part of the sum is zero. key: of this exchange's stochastic rounding.
  void start(std::int64_t passes, kernels::RngKey key = {});
  // Gives up: the rest of the passes does not come, and buckets that were not exchanged yet are zero.
  void give_up();

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

  // Called in the commit() that makes this rank's sum of a bucket complete, and in no other place.
  void set_on_complete(std::function<void(int bucket)> tell) { on_complete_ = std::move(tell); }
  bool is_complete(int bucket) const;
  // Collective: exchanges a bucket that is complete, once. error: if not null, the exchange is also made without codes,
  // and how far apart both are is added to it.
  void reduce(int bucket, WireError* error = nullptr);

  // Collective, after the last pass: exchanges what is not exchanged yet, from the first bucket to the last. Of each
  // bucket, this rank's shard of the sum over the ranks; valid until start().
  const BucketShards& finish();
  // After finish(), if the step counts: what codes did not carry goes into the next sums.
  void commit_feedback();

  // After finish(): the same shards, which may be changed where they lie.
  std::vector<std::span<float>> own_sums();

  // What this rank sends in an exchange of all buckets, and what it would send in fp32.
  std::int64_t sent_bytes() const;
  std::int64_t fp32_bytes() const;

 private:
  struct Bucket {
    ShardRange range;
    GradReducer reducer;
    TreeAccumulator sum;
    std::span<float> leaf;   // of this pass; empty: not asked for
    bool committed = false;  // in this pass
    bool encoded = false;    // travels as codes
    bool reduced = false;    // in this step
  };
  Bucket& at(int bucket) { return buckets_.at(static_cast<std::size_t>(bucket)); }
  bool keeps_feedback(const Bucket& bucket) const { return feedback_ != nullptr && bucket.encoded; }
  std::span<float> shard_of(Bucket& bucket);
  void measure(int bucket, std::span<const float> exact, WireError& error);

  const FlatLayout* layout_;
  std::shared_ptr<FlatMemory> memory_;
  kernels::Exec exec_;
  ErrorFeedback* feedback_;
  std::function<void(int bucket)> on_complete_;
  kernels::RngKey key_;
  std::vector<Bucket> buckets_;
  BucketShards own_;
  std::int64_t passes_ = 0, passes_done_ = 0;
  bool resting_ = false;
};

}  // namespace qat::dist
