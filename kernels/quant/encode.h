// Symmetric quantization to int8 codes, the numbers that the integer GEMM reads.
//
//   s[r] = max(max_c |x[r,c]|, amax_floor) / q_max(b)           one scale per row (or the scales given)
//   k[r,c] = clamp(rint(x[r,c] * (1 / s[r])), -q_max, +q_max)   ties to even; the reciprocal is rounded once, in fp32
//
// Non-finite input: a row (or column, whichever shares a scale) with an infinity or a NaN gets the scale NaN and codes
// 0, so that NaN comes out of the GEMM, reaches the loss, and the step is skipped. With given scales nothing can be
// marked: infinities saturate and a NaN becomes the code 0, so whoever fixes scales watches for NaN elsewhere.
//
// The value a code stands for is k * s. CPU and CUDA give the same codes and the same scales, bit for bit.
// Source: SEMANTICS of min-max symmetric quantization; widths 2..8 (wider codes do not fit int8 and are refused).
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>

#include "kernels/common/bit_width.h"
#include "kernels/common/exec.h"
#include "kernels/common/philox.h"
#include "kernels/common/view.h"

namespace qat::kernels {

// Rows whose largest magnitude is below this are given this one, so that scales stay finite and positive.
constexpr float kWeightAmaxFloor = 1e-5F;     // weights and activations
constexpr float kGradientAmaxFloor = 1e-30F;  // gradients are small numbers by nature

enum class Rounding : std::uint8_t {
  kNearestEven,
  // floor(v + u) as if the sum were exact, with v = clamp(x * (1/s), -q_max, q_max) and u = rounding_uniform_at(key,
  // row * cols + col), (a byte + 1/2) / 256: the two neighbours of v only, and whole numbers never move. The fraction f
  // of v goes up with the probability floor(256 f + 1/2) / 256, so the mean is v to within 2^-9 of a step; below 2^-9
  // of a step a value is always 0.
  kStochastic,
};

struct EncodeOptions {
  BitWidth width{8};
  float amax_floor = kWeightAmaxFloor;
  Rounding rounding = Rounding::kNearestEven;
  RngKey key{};  // for kStochastic
};
// Whether the smallest scale is a normal number: then |x / s| exceeds q_max by rounding only.
inline bool is_floor(const EncodeOptions& options) noexcept {
  return options.amax_floor / static_cast<float>(options.width.q_max()) >= std::numeric_limits<float>::min();
}

// Either may be empty (not wanted), not both. Backward sums over the other dimension and reads the transposed codes.
struct CodesOut {
  Matrix<std::int8_t> codes;             // [rows, cols]
  Matrix<std::int8_t> codes_transposed;  // [cols, rows]
};

// In all of these x is dense: fp32 on a CPU, fp32 or bf16 on a GPU (where every span and matrix is device memory).
// Arithmetic is fp32, so bf16 is coded as the fp32 numbers it stands for.
//
// Dynamic scales, one per row of x.   x: [rows, cols]; scales: [rows], written.
void encode_rows(const Exec& exec, ConstFloatMatrix x, const EncodeOptions& options, const CodesOut& out,
                 std::span<float> scales);

// Dynamic scales, one per column of x.   scales: [cols], written.
void encode_cols(const Exec& exec, ConstFloatMatrix x, const EncodeOptions& options, const CodesOut& out,
                 std::span<float> scales);

// Given scales, all finite and > 0.   scales: [1] (whole tensor) or [rows].
void encode_with_scales(const Exec& exec, ConstFloatMatrix x, std::span<const float> scales,
                        const EncodeOptions& options, const CodesOut& out);

// x^ = k * s, rounded to x's dtype (dense, fp32; on a GPU also bf16).   scales: [1] or [rows].
void decode_rows(const Exec& exec, Matrix<const std::int8_t> codes, std::span<const float> scales, FloatMatrix x);

// Backward's operand: the same, of y[r,c] = (x[r,c] * row_factors[r]) * col_factors[c], each product rounded in fp32,
// with the factors per row ([rows]) and per column ([cols]) folded in before the scale is taken; an empty span is a
// factor of one. y is never stored as floats. Rows mode: one scale per row; cols mode: one per column.
struct Factors {
  std::span<const float> row_factors;
  std::span<const float> col_factors;
};
void encode_scaled_rows(const Exec& exec, ConstFloatMatrix x, const Factors& factors, const EncodeOptions& options,
                        const CodesOut& out, std::span<float> scales);
void encode_scaled_cols(const Exec& exec, ConstFloatMatrix x, const Factors& factors, const EncodeOptions& options,
                        const CodesOut& out, std::span<float> scales);

}  // namespace qat::kernels
