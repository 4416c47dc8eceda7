// Normal noise on a flat range.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"
#include "kernels/common/philox.h"

namespace qat::kernels {

// x[i] += draw `first + i` of the stream, normal with mean 0 and this deviation (kernels/common/normal_draw.h). fp32,
// one rounding of the draw and one of the sum: any cut of the range gives the same bits, on any device.
void add_noise(const Exec& exec, std::span<float> x, std::uint64_t first, double deviation, RngKey key);

}  // namespace qat::kernels
