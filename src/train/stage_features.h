// What a pass through stages learns from hidden states: each stage compares those of its own layers, and the last one
// tells the loss of all.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <set>
#include <span>

#include "dist/comm/communicator.h"
#include "src/model/lesson.h"

namespace qat {

class StageFeatures {
 public:
  // Of a pass over so many micro-batches of this replica that compares the states of these numbers (HiddenStates).
  StageFeatures(std::span<const std::uint32_t> numbers, std::int64_t micro_batches, at::Device device);

  bool any() const { return !numbers_.empty(); }
  // What a chunk has found (FeatureLoss::sums).
  void keep(std::int64_t micro_batch, const HiddenStates& sums);
  // At the last stage: the loss of a micro-batch, fp32 [], 0 until complete(). divisor: FeatureLoss's.
  at::Tensor loss(std::int64_t micro_batch, double divisor);
  // Collective, after the pass. The losses get the bits that one rank with all layers has.
  void complete(dist::Communicator& pipeline);

 private:
  std::set<std::uint32_t> numbers_;
  at::Tensor sums_;    // fp32 [numbers, micro-batches]: zeros where another stage has the layer
  at::Tensor losses_;  // [micro-batches]; undefined: another stage tells them
  double divisor_ = 1.0;
};

}  // namespace qat
