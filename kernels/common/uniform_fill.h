// Many draws of one stream at once, on the CPU; a million uniform or normal draws and more by up to 16 threads of the
// call's own, since a draw depends on its key and index alone.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/cpu_isa.h"
#include "kernels/common/philox.h"

namespace qat::kernels {

// out[i] = uniform_at(key, first + i), four draws for the price of one block.
void fill_uniform(RngKey key, std::uint64_t first, std::span<float> out, CpuIsa isa = best_cpu_isa());

// out[i] is draw `first + i` of the stream, normal with mean 0; |out[i]| <= 6.67 stddev. Box-Muller in double, two
// pairs a block, with nothing but IEEE operations (no C library functions, which differ between machines): the same
// bits everywhere.
void fill_normal(RngKey key, std::uint64_t first, float stddev, std::span<float> out, CpuIsa isa = best_cpu_isa());

// out[i] = rounding_uniform_at(key, first + i), sixteen draws for the price of one block.
void fill_rounding_uniform(RngKey key, std::uint64_t first, std::span<float> out, CpuIsa isa = best_cpu_isa());

}  // namespace qat::kernels
