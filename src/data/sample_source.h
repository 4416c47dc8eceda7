// What a step trains on: samples by their number in the run. Sample n is a pure function of (seed, n), so that any
// number of ranks sees the same batches, and a resumed run goes on where it stopped without any saved state.
#pragma once

#include <cstdint>
#include <span>

#include "src/data/data_identity.h"

namespace qat {

class SampleSource {
 public:
  virtual ~SampleSource() = default;

  // Samples that an epoch visits, each once.
  virtual std::int64_t windows_per_epoch() const = 0;
  virtual std::int64_t sequence_length() const = 0;
  // How many numbers say what a sample's model is to find: a token for each of its inputs, or the places of an answer.
  virtual std::int64_t targets_per_sample() const = 0;
  // Sample n: inputs holds sequence_length() tokens, targets targets_per_sample() numbers. Throws kData if they cannot
  // be read, or not as they were.
  virtual void sample(std::uint64_t n, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) const = 0;
  // How many losses so many samples have: what a step's mean is over.
  virtual std::int64_t valid_targets(std::int64_t samples) const = 0;
  // What the samples are made of, for checkpoints.
  virtual SplitIdentity identity() const = 0;
};

}  // namespace qat
