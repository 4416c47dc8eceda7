// Samples as the tensors of one pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "src/data/sampler.h"

namespace qat {

struct Batch {
  at::Tensor inputs;   // int64 [B, T]
  at::Tensor targets;  // int64 [B, T]: inputs shifted by one
};

// Samples first .. first + rows - 1 of the run, on `device`.
Batch sample_batch(const Sampler& sampler, std::uint64_t first, std::int64_t rows, std::int64_t sequence_length,
                   at::Device device = at::kCPU);

}  // namespace qat
