// AdamW whose state is cut over the data-parallel ranks: each rank updates its own shard of the flat parameter buffer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/grad/flat_memory.h"
#include "dist/grad/grad_reducer.h"
#include "dist/grad/norm_block.h"
#include "kernels/common/exec.h"
#include "src/optim/optim_config.h"

namespace qat {

// One parameter tensor in the flat buffer.
struct OptimSegment {
  std::int64_t offset = 0;
  std::int64_t elems = 0;
  bool decay = true;
};

// sqrt(sum of squares over all ranks' shards), the same on every rank: the sums of the blocks in their order, in
// double. shard: a multiple of kNormBlock elements, on exec's device, zeros between tensors; scratch:
// [shard / kNormBlock] on a GPU, nothing on a CPU.
double global_norm(dist::Communicator& comm, const kernels::Exec& exec, std::span<const float> shard,
                   std::span<double> scratch = {});

class ShardedAdamW {
 public:
  // `memory`: where the state lives, the device of the flat buffers.
  ShardedAdamW(std::vector<OptimSegment> segments, dist::ShardRange shard, const OptimConfig& config,
               dist::FlatMemory& memory = *dist::host_flat_memory());

  // Updates this rank's shard of `params` from the same shard of `grads` (both whole flat buffers). A segment with
  // produced[i] false is not touched: no moment decay, no weight decay, no step count. An element whose update would
  // not be finite keeps its parameter and moments; take_refused() tells.
  void step(const kernels::Exec& exec, std::span<float> params, std::span<const float> grads,
            const std::vector<bool>& produced, double learning_rate, double gradient_scale);

  // Whether some element of this rank's shard kept its old values in a step since the last call. On a GPU it waits for
  // what is on exec's stream: ask where something else has waited already.
  bool take_refused(const kernels::Exec& exec);

  const dist::ShardRange& shard() const { return shard_; }
  const std::vector<OptimSegment>& segments() const { return segments_; }
  // State, for checkpoints. exp_avg, exp_avg_sq: [shard elements], where `memory` is; steps: updates each segment has
  // had.
  std::span<float> exp_avg() { return shard_span(exp_avg_); }
  std::span<float> exp_avg_sq() { return shard_span(exp_avg_sq_); }
  std::vector<std::int64_t>& steps() { return steps_; }
  // For global_norm, where `memory` is.
  std::span<double> norm_scratch() {
    return {reinterpret_cast<double*>(norm_scratch_.get()), static_cast<std::size_t>(shard_.size() / kNormBlock)};
  }

 private:
  std::vector<OptimSegment> segments_;
  dist::ShardRange shard_;
  OptimConfig config_;
  std::span<float> shard_span(const std::shared_ptr<float>& data) const {
    return {data.get(), static_cast<std::size_t>(shard_.size())};
  }

  std::shared_ptr<float> exp_avg_, exp_avg_sq_, norm_scratch_;
  std::shared_ptr<float> refused_;  // an int32 for the kernel, where `memory` is
  std::vector<std::int64_t> steps_;
};

}  // namespace qat
