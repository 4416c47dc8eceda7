// Many draws of one stream at once.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/cpu_isa.h"
#include "kernels/common/philox.h"

namespace qat::kernels {

// out[i] = uniform_at(key, first + i), on the CPU, four draws for the price of one block.
void fill_uniform(RngKey key, std::uint64_t first, std::span<float> out, CpuIsa isa = best_cpu_isa());

// out[i] = rounding_uniform_at(key, first + i), eight draws for the price of one block.
void fill_rounding_uniform(RngKey key, std::uint64_t first, std::span<float> out, CpuIsa isa = best_cpu_isa());

}  // namespace qat::kernels
