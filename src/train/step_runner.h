// One optimizer step on one rank: its micro-batches forward and backward, the gradient over all ranks, the update.
//
// The gradient of the global batch is the mean over its micro-batches, summed as one balanced binary tree whatever the
// number of ranks: this rank's contiguous micro-batches pairwise, then the ranks (dist/grad). What a micro-batch
// contains, and every random draw in it, depends on (seed, step, index in the global batch) alone.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/control/step_plan.h"
#include "dist/grad/grad_reducer.h"
#include "dist/grad/tree_accumulator.h"
#include "src/data/sampler.h"
#include "src/model/gpt2.h"
#include "src/optim/sharded_adamw.h"
#include "src/train/batch.h"
#include "src/train/train_config.h"

namespace qat {

// The same on every rank.
struct StepOutcome {
  double loss = 0.0;       // mean over the global batch, before the update
  double grad_norm = 0.0;  // of the mean gradient, before clipping
  bool clipped = false;
  bool skipped = false;  // loss or gradient was not finite: no parameter changed
  int stop_signal = 0;   // a signal that some rank has received (the largest number), 0: none
};

struct StepRunnerOptions {
  std::uint64_t seed = 1;
  std::int64_t sequence_length = 0;
  TrainConfig train;
  OptimConfig optim;
  bool stochastic_gradients = true;
  int threads = 1;  // micro-batches of this rank that are computed at the same time, each on one thread
};

class StepRunner {
 public:
  // Optional hooks, called on this rank: after the gradient of one micro-batch is in the flat buffer (on the model's
  // device).
  using GradientHook = std::function<void(std::int64_t step, std::int64_t micro_batch, std::span<float> flat)>;

  StepRunner(Gpt2& model, const Sampler& sampler, dist::Communicator& comm, const StepRunnerOptions& options);

  // `local_signal`: a signal this rank has received, or 0; it is agreed on with the losses.
  StepOutcome run(const dist::StepPlan& plan, const PrecisionMap& precision, int local_signal);

  ShardedAdamW& optimizer() { return optimizer_; }
  dist::GradReducer& reducer() { return reducer_; }
  void set_gradient_hook(GradientHook hook) { gradient_hook_ = std::move(hook); }
  // Elements that the flat buffer must be a multiple of on `ranks` ranks.
  static std::int64_t padding(int ranks) { return kNormBlock * ranks; }

 private:
  struct Pass {
    at::Tensor loss;                    // on the model's device: reading it would wait for the pass
    std::vector<at::Tensor> gradients;  // of the trainable tensors; undefined: not produced
  };
  // What all micro-batches of a step share.
  struct Step {
    const dist::StepPlan& plan;
    const PrecisionMap& precision;
    std::vector<bool> produced;      // gradients, by trainable tensor
    std::vector<at::Tensor> losses;  // in order of micro-batches
  };
  // Number of the first sample of a micro-batch in the run.
  std::uint64_t first_sample(std::uint64_t step, std::int64_t micro_batch) const;
  // places: where gradients may be left, or null.
  Pass forward_backward(const Step& step, std::int64_t micro_batch, const Batch& batch, GradientPlaces* places);
  // Adds a pass to the step: its gradients by way of `leaf`, the accumulator's next.
  void join(const Pass& pass, std::int64_t micro_batch, std::span<float> leaf, Step& step);
  // All of this rank's micro-batches: one at a time, or as many at once as there are threads.
  void run_in_turn(Step& step);
  void run_side_by_side(Step& step);
  // Mean loss over the global batch in order of micro-batches, and the largest signal. losses: this rank's, on the
  // host.
  void agree_on_loss(const at::Tensor& losses, int local_signal, StepOutcome& outcome);

  Gpt2& model_;
  const Sampler& sampler_;
  BatchLoader loader_;
  dist::Communicator& comm_;
  StepRunnerOptions options_;
  std::int64_t micro_batches_;        // of the global batch
  std::int64_t local_micro_batches_;  // of this rank
  dist::GradReducer reducer_;
  dist::TreeAccumulator accumulator_;
  ShardedAdamW optimizer_;
  WeightCache weight_cache_;
  GradientHook gradient_hook_;
};

}  // namespace qat
