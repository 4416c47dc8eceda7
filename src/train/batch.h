// Samples as the tensors of one pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "src/data/sample_source.h"

namespace qat {

struct Batch {
  at::Tensor inputs;   // int64 [B, T]
  at::Tensor targets;  // int64 [B, SampleSource::targets_per_sample()]; of text, inputs shifted by one
};

// Samples first .. first + rows - 1 of the run, on `device`.
Batch sample_batch(const SampleSource& sampler, std::uint64_t first, std::int64_t rows, std::int64_t sequence_length,
                   at::Device device = at::kCPU);

// The batches of a run, one ahead: while a GPU computes, the host samples the next one, and its copy waits in the
// stream. For one thread.
class BatchLoader {
 public:
  // The sampler must outlive this.
  BatchLoader(const SampleSource& sampler, std::int64_t rows, std::int64_t sequence_length, at::Device device)
      : sampler_(sampler), rows_(rows), sequence_length_(sequence_length), device_(device) {}

  // Samples first .. first + rows - 1: those made ahead, if they are the ones.
  Batch take(std::uint64_t first);
  // Call when the device has work. On a CPU nothing is gained, and nothing done. What cannot be read is left to take(),
  // which tries again and throws.
  void prefetch(std::uint64_t first);

 private:
  struct Ahead {
    std::uint64_t first;
    Batch batch;
  };
  const SampleSource& sampler_;
  std::int64_t rows_, sequence_length_;
  at::Device device_;
  std::optional<Ahead> ahead_;
};

}  // namespace qat
