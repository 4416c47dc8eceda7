// The CUDA half of add_noise.h.
#pragma once

#include "kernels/optim/add_noise.h"

namespace qat::kernels {

void add_noise_cuda(const Exec& exec, std::span<float> x, std::uint64_t first, double deviation, RngKey key);

}  // namespace qat::kernels
