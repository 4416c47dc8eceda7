// The inner loops of symmetric quantization, over one row (or a piece of one). Internal to kernels/quant.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/cpu_isa.h"

namespace qat::kernels {

// y[c] = (x[c] * row_factor) * col_factors[c], each product rounded; col_factors may be null (no second product).
struct ScaledRow {
  const float* x;
  std::int64_t n;
  float row_factor;
  const float* col_factors;
};

// Magnitudes are compared as the bits of |y|: for floats without a sign that order is the order of the values, with
// infinity and then NaN above all of them, so one integer maximum finds the largest value and anything non-finite.
std::int32_t abs_max_bits(const ScaledRow& row, CpuIsa isa);
void raise_abs_max_bits(const ScaledRow& row, std::int32_t* max_bits, CpuIsa isa);  // max_bits: [n], one per column

// max(|y|, floor) / q_max; NaN if the bits are those of an infinity or a NaN.
float scale_of_abs_max(std::int32_t max_bits, float floor, float q_max);

// codes[c] = round(y[c] * inverse), in -q_max..q_max; NaN gives 0.
//   inverse: one value, or one per column if `per_column`
//   uniform: null for ties to even; else the draws of stochastic rounding, [n]
struct CodeRule {
  const float* inverse;
  bool per_column;
  const float* uniform;
  float q_max;
};
void code_row(const ScaledRow& row, const CodeRule& rule, std::int8_t* codes, CpuIsa isa);

// y[c] = scale * round(clamp(x[c] * inverse, lo, hi)), lo and hi integers below 2^22; NaN stays NaN, and zero is +0.
// scale, inverse, lo, hi: one value each, or one per column if `per_column`. y may be x.
struct GridRule {
  const float* scale;
  const float* inverse;
  const float* lo;
  const float* hi;
  bool per_column;
  const float* uniform;  // as in CodeRule
};
void snap_row(const float* x, std::int64_t n, const GridRule& rule, float* y, CpuIsa isa);

}  // namespace qat::kernels
