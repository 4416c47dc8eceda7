// A run's state kept aside in host memory, to be put back bit for bit: what a checkpoint would hold of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "src/model/gpt2.h"
#include "src/train/step_runner.h"

namespace qat {

// Of each rank its own part: the parameters that it answers for with AdamW's moments, the counts of updates, the ranges
// in force. What encoded gradients did not carry waits aside, and whoever trains in between begins without.
class StateSnapshot {
 public:
  // All of them outlive this.
  StateSnapshot(Gpt2& model, StepRunner& runner, const dist::Grid& grid);
  StateSnapshot(const StateSnapshot&) = delete;
  StateSnapshot& operator=(const StateSnapshot&) = delete;

  // Collective: everything is as it was when this was made; it may be asked for again and again.
  void restore();
  // Collective: the same, for the last time.
  void finish();

 private:
  void begin_without_feedback();

  Gpt2& model_;
  StepRunner& runner_;
  dist::Grid grid_;
  std::vector<at::Tensor> owned_;  // of each OwnedState its values and both moments
  std::vector<std::int64_t> steps_;
  std::vector<Quantizer> quantizers_;  // of each linear layer: of its weights, of its inputs
  std::vector<dist::ErrorFeedback> feedback_;
};

}  // namespace qat
