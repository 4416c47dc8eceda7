// The CPU half of fake_quant.h. Shapes are checked by fake_quant.cc.
#pragma once

#include <span>

#include "kernels/common/cpu_isa.h"
#include "kernels/quant/fake_quant.h"

namespace qat::kernels {

// y = s * round(clamp(x * (1 / s), lo, hi)) with lo = level_lo - z and hi = level_hi - z; without zero_points z is 0.
struct UniformGrid {
  std::span<const float> scales;
  std::span<const float> zero_points;
  float level_lo;
  float level_hi;
  bool stochastic;
  RngKey key;
};
void fake_quant_uniform_cpu(const Exec& exec, Matrix<const float> x, Axis axis, const UniformGrid& grid,
                            Matrix<float> y, CpuIsa isa);

struct LogGrid {
  std::span<const float> log_mins;
  std::span<const float> log_ranges;
  BitWidth width;
  LogCodebook codebook;
};
void fake_quant_log_cpu(const Exec& exec, Matrix<const float> x, Axis axis, const LogGrid& grid, Matrix<float> y);

}  // namespace qat::kernels
