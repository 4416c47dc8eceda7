// Normal noise on the gradients of updates at low widths (optim.noise): what an update does with the gradient g of a
// tensor, once it is summed over all ranks and clipped, becomes
//
//   g + n d      n: normal draws of mean 0 and deviation 1, by seed, step, number of the update, tensor and element
//                d: optim.noise, times the root mean square of g with optim.noise_scale "relative"
//
// The norm that is reported and clipped by is that of the gradient without noise. Draws depend on nothing else, so they
// are the same on any number of ranks, and a resumed run draws what the uninterrupted one does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dist/control/step_plan.h"
#include "kernels/common/exec.h"
#include "src/model/parameter_store.h"
#include "src/optim/optim_config.h"
#include "src/optim/sharded_adamw.h"

namespace qat {

// One update's noise on this rank's part of the gradient. Which groups get it: those that a width has for itself by
// that width, all others by the narrowest width that the update trains.
struct GradientNoise {
  const OptimConfig& config;
  const ParameterStore& store;
  const ShardedAdamW& optimizer;  // how the parameters lie, and this rank's parts of them
  int rank = 0;
  const dist::StepPlan& plan;
  std::size_t update = 0;              // of the plan
  const std::vector<bool>& produced;   // by tensor: it has a gradient
  const std::vector<double>& squares;  // by tensor: the sum over all elements, on all ranks, of the squared gradient
  std::span<const double> scales;      // by group: what the optimizer will multiply the gradient by
  std::uint64_t seed = 0;
};

// gradient: by group and bucket, this rank's shards.
void add_gradient_noise(const kernels::Exec& exec, const GradientNoise& noise,
                        const std::vector<ShardValues>& gradient);

}  // namespace qat
