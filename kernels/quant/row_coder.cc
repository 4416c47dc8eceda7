#include "kernels/quant/row_coder.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace qat::kernels {
namespace {

constexpr std::int32_t kInfinityBits = 0x7F800000;

// Ties to even for |v| <= 2^22 in the default rounding mode: adding 1.5 * 2^23 leaves no bits for the fraction. Unlike
// rintf it vectorizes on the x86-64 baseline, and it gives +0 for small negative values, as decoding the code 0 does.
QAT_ALWAYS_INLINE float round_even(float v) {
  constexpr float kShift = 12582912.0F;
  return (v + kShift) - kShift;
}

// floor(v + u) as if the sum were exact, for u a draw of philox.h: a multiple of 2^-9 in (0, 1). v - nearest, which
// lies in [-1/2, 1/2], is exact, and so are 1 - u and -u; v + u, and v - floor(v) of a small negative v, are not.
QAT_ALWAYS_INLINE float round_stochastic(float v, float u) {
  const float nearest = round_even(v), rest = v - nearest;
  return nearest + ((rest >= 1.0F - u ? 1.0F : 0.0F) - (rest < -u ? 1.0F : 0.0F));
}

// The operands stand so that a NaN stays one (minps and maxps return the second).
QAT_ALWAYS_INLINE float clamp_keep_nan(float v, float lo, float hi) {
  const float below = hi < v ? hi : v;
  return lo > below ? lo : below;
}

template <bool kColFactors>
QAT_ALWAYS_INLINE std::int32_t magnitude_bits(float x, float row_factor, const float* col_factors, std::int64_t i) {
  float y = x * row_factor;
  if constexpr (kColFactors) y *= col_factors[i];
  return std::bit_cast<std::int32_t>(y) & 0x7FFFFFFF;
}

template <bool kColFactors>
QAT_ALWAYS_INLINE std::int32_t abs_max_body(const float* __restrict x, std::int64_t n, float row_factor,
                                            const float* __restrict col_factors) {
  std::int32_t result = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int32_t bits = magnitude_bits<kColFactors>(x[i], row_factor, col_factors, i);
    result = bits > result ? bits : result;
  }
  return result;
}

template <bool kColFactors>
QAT_ALWAYS_INLINE void raise_body(const float* __restrict x, std::int64_t n, float row_factor,
                                  const float* __restrict col_factors, std::int32_t* __restrict max_bits) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int32_t bits = magnitude_bits<kColFactors>(x[i], row_factor, col_factors, i);
    max_bits[i] = bits > max_bits[i] ? bits : max_bits[i];
  }
}

struct CodeArgs {
  const float* x;
  std::int64_t n;
  float row_factor;
  const float* col_factors;
  const float* inverse;
  const float* uniform;
  float q_max;
};

template <bool kColFactors, bool kPerColumn, bool kStochastic>
QAT_ALWAYS_INLINE void code_body(const CodeArgs& args, std::int8_t* out) {
  const float* __restrict x = args.x;
  const float* __restrict col_factors = args.col_factors;
  const float* __restrict inverses = args.inverse;
  const float* __restrict uniform = args.uniform;
  std::int8_t* __restrict codes = out;
  const float row_factor = args.row_factor, q_max = args.q_max, one_inverse = args.inverse[0];
  const std::int64_t n = args.n;
  for (std::int64_t i = 0; i < n; ++i) {
    float y = x[i] * row_factor;
    if constexpr (kColFactors) y *= col_factors[i];
    float v = y * (kPerColumn ? inverses[i] : one_inverse);
    v = v == v ? v : 0.0F;
    v = clamp_keep_nan(v, -q_max, q_max);
    const float code = kStochastic ? round_stochastic(v, uniform[i]) : round_even(v);
    codes[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(code));
  }
}

template <bool kPerColumn, bool kStochastic>
QAT_ALWAYS_INLINE void snap_body(const float* x, std::int64_t n, const GridRule& rule, float* y) {
  const float* __restrict scales = rule.scale;
  const float* __restrict inverses = rule.inverse;
  const float* __restrict los = rule.lo;
  const float* __restrict his = rule.hi;
  const float* __restrict uniform = rule.uniform;
  const float scale = scales[0], inverse = inverses[0], lo = los[0], hi = his[0];
  for (std::int64_t i = 0; i < n; ++i) {
    const float v =
        kPerColumn ? clamp_keep_nan(x[i] * inverses[i], los[i], his[i]) : clamp_keep_nan(x[i] * inverse, lo, hi);
    const float rounded = kStochastic ? round_stochastic(v, uniform[i]) : round_even(v);
    y[i] = (kPerColumn ? scales[i] : scale) * rounded;
  }
}

}  // namespace

std::int32_t abs_max_bits(const ScaledRow& row, CpuIsa isa) {
  const auto body =
      row.col_factors != nullptr ? IsaClones<abs_max_body<true>>::pick(isa) : IsaClones<abs_max_body<false>>::pick(isa);
  return body(row.x, row.n, row.row_factor, row.col_factors);
}

void raise_abs_max_bits(const ScaledRow& row, std::int32_t* max_bits, CpuIsa isa) {
  const auto body =
      row.col_factors != nullptr ? IsaClones<raise_body<true>>::pick(isa) : IsaClones<raise_body<false>>::pick(isa);
  body(row.x, row.n, row.row_factor, row.col_factors, max_bits);
}

float scale_of_abs_max(std::int32_t max_bits, float floor, float q_max) {
  if (max_bits >= kInfinityBits) return std::numeric_limits<float>::quiet_NaN();
  return std::max(std::bit_cast<float>(max_bits), floor) / q_max;
}

void code_row(const ScaledRow& row, const CodeRule& rule, std::int8_t* codes, CpuIsa isa) {
  const auto pick = [&]<bool kColFactors, bool kPerColumn>() {
    return rule.uniform != nullptr ? IsaClones<code_body<kColFactors, kPerColumn, true>>::pick(isa)
                                   : IsaClones<code_body<kColFactors, kPerColumn, false>>::pick(isa);
  };
  const bool factors = row.col_factors != nullptr;
  const auto body = factors ? (rule.per_column ? pick.operator()<true, true>() : pick.operator()<true, false>())
                            : (rule.per_column ? pick.operator()<false, true>() : pick.operator()<false, false>());
  body({row.x, row.n, row.row_factor, row.col_factors, rule.inverse, rule.uniform, rule.q_max}, codes);
}

void snap_row(const float* x, std::int64_t n, const GridRule& rule, float* y, CpuIsa isa) {
  if (n == 0) return;
  const auto pick = [&]<bool kPerColumn>() {
    return rule.uniform != nullptr ? IsaClones<snap_body<kPerColumn, true>>::pick(isa)
                                   : IsaClones<snap_body<kPerColumn, false>>::pick(isa);
  };
  const auto body = rule.per_column ? pick.operator()<true>() : pick.operator()<false>();
  body(x, n, rule, y);
}

}  // namespace qat::kernels
