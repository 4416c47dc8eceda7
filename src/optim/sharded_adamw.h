// AdamW whose state is cut over the data-parallel ranks: each rank updates its own shards of the groups' buckets.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "dist/grad/flat_memory.h"
#include "kernels/common/exec.h"
#include "src/optim/optim_config.h"
#include "src/optim/optim_layout.h"

namespace qat {

using ShardValues = std::vector<std::span<float>>;  // by bucket, one rank's shard

class ShardedAdamW {
 public:
  // `memory`: where the state lives, the device of the parameters.
  ShardedAdamW(OptimLayout layout, int rank, const OptimConfig& config,
               dist::FlatMemory& memory = *dist::host_flat_memory());

  // Updates this rank's shards. params, grads: by group and bucket, this rank's shard; without gradients a group is
  // left alone. learning_rates, gradient_scales: of each group. A tensor with produced[i] false is not touched: no
  // moment decay, no weight decay, no step count. An element whose update would not be finite keeps its parameter and
  // moments; take_refused() tells. updated: called in the groups' order, when the update of a group that is not left
  // alone is on exec's stream.
  void step(const kernels::Exec& exec, std::span<const ShardValues> params, std::span<const dist::BucketShards> grads,
            const std::vector<bool>& produced, std::span<const float> learning_rates,
            std::span<const double> gradient_scales, const std::function<void(std::size_t group)>& updated = {});

  // Whether some element of this rank's shards kept its old values in a step since the last call. On a GPU it waits for
  // what is on exec's stream: ask where something else has waited already.
  bool take_refused(const kernels::Exec& exec);

  const OptimLayout& layout() const { return layout_; }
  // What this rank owns, and where it is in exp_avg() and exp_avg_sq(), for checkpoints.
  const std::vector<OwnedPart>& parts() const { return parts_; }
  // exp_avg, exp_avg_sq: [layout().own_elems()], where `memory` is; steps: updates each tensor has had.
  std::span<float> exp_avg() { return own(exp_avg_); }
  std::span<float> exp_avg_sq() { return own(exp_avg_sq_); }
  std::vector<std::int64_t>& steps() { return steps_; }

 private:
  std::span<float> own(const std::shared_ptr<float>& data) const {
    return {data.get(), static_cast<std::size_t>(layout_.own_elems())};
  }

  OptimLayout layout_;
  int rank_;
  OptimConfig config_;
  std::vector<OwnedPart> parts_;
  std::shared_ptr<float> exp_avg_, exp_avg_sq_;
  std::shared_ptr<float> refused_;  // an int32 for the kernel, where `memory` is
  std::vector<std::int64_t> steps_;
};

}  // namespace qat
