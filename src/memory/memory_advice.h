// What to change so that a run fits into the memory there is, and how to say it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "src/memory/memory_model.h"

namespace qat {

// One way out: the settings to change, together, and what a rank would then need.
struct MemoryChange {
  std::string settings;  // "train.micro_batch_size=4 compute.recompute=block"
  std::int64_t bytes = 0;
  bool keeps_result = true;  // the run computes the same, to rounding at most
};

// What a rank needs and has, by configuration and layout: the question asked again for each change.
struct MemoryQuestion {
  std::function<MemoryEstimate(const RunConfig&, const RankLayout&)> needed;
  std::function<std::int64_t(const RankLayout&)> available;
};

// At most `most` changes that fit, from those that leave the result alone (recomputation, threads, ranks on this host,
// smaller micro-batches or evaluation batches) to those that do not (shorter sequences, a frozen base, a smaller
// model). Each changes as little as its kind allows, and none contains another. Empty: nothing that is tried fits.
std::vector<MemoryChange> changes_that_fit(const RunConfig& config, const RankLayout& layout,
                                           const MemoryQuestion& question, std::size_t most = 3);

// "about 1.90 GiB in a training step: activations 1.10 GiB, gradient sums 0.40 GiB, ..."; with few names the small
// consumers are one.
std::string describe(const MemoryEstimate& estimate, std::size_t names);
// A line for each change; or that there is none.
std::string describe(const std::vector<MemoryChange>& changes);

}  // namespace qat
