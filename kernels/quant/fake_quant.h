// Quantize and dequantize in fp32, for what does not run on integer codes: affine (asymmetric) and log quantizers,
// per-feature activation scales, and widths above 8.
//
// symmetric:  y = s * clamp(rint(x / s), -q_max, q_max)
// affine:     y = s * (clamp(rint(x / s) + z, 0, 2^b - 1) - z),  z an integer in [0, 2^b - 1]
// Both use x * (1 / s) with the reciprocal rounded once in fp32, as encode.h does, so that the symmetric form equals
// decode(encode(x)) bit for bit; a zero is +0. NaN stays NaN everywhere; an infinity saturates unless its own range
// made the scale NaN (range.h), which makes the whole group NaN. CPU and CUDA agree bit for bit.
//
// log (log2 domain; L = log2|x|, t = clamp((L - log_min) / max(log_range, 1e-5), 0, 1)):
//   |x| < eps (seed) or <= eps (packed) gives 0; otherwise y = sign(x) * 2^(u * log_range + log_min) with
//   seed,   symmetric:  k = clamp(rint((t - 0.5) * 2n), -n, n), n = q_max;  u = k / (2n) + 0.5   (2^(b+1) - 1 values)
//   packed:             k = rint(t * (L_m - 1)), L_m = q_max magnitudes;    u = k / (L_m - 1)    (2^b - 1 values);
//                       2 bits has one magnitude: log_min carries the mean exponent and log_range is 0
// log2 and exp2 differ between devices in the last bits: so may y, and an exponent that falls on the boundary between
// two codes (within those bits) may go to either.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/bit_width.h"
#include "kernels/common/exec.h"
#include "kernels/common/philox.h"
#include "kernels/common/view.h"
#include "kernels/quant/encode.h"
#include "kernels/quant/log_codebook.h"
#include "kernels/quant/range.h"

namespace qat::kernels {

constexpr float kLogEps = 1e-5F;

// Scale and zero-point of a range. `max_abs` symmetric: s = max(|lo|,|hi|,floor)/q_max, z = 0. Affine: the range is
// first extended to contain 0 (so that zero is exact and z is in range), s = max(hi - lo, floor)/(2^b - 1),
// z = rint(-lo / s), both divisions in fp32. NaN in a range gives NaN.
struct AffineParams {
  float scale = 1.0F;
  float zero_point = 0.0F;
};
AffineParams symmetric_params(float lo, float hi, BitWidth width, float floor = kWeightAmaxFloor);
AffineParams affine_params(float lo, float hi, BitWidth width, float floor = kWeightAmaxFloor);

// The same for every group of a range, on exec's device, bit for bit.   lo, hi, scales, zero_points: [groups].
void symmetric_scales(const Exec& exec, std::span<const float> lo, std::span<const float> hi, BitWidth width,
                      float floor, std::span<float> scales);
void affine_scales(const Exec& exec, std::span<const float> lo, std::span<const float> hi, BitWidth width,
                   std::span<float> scales, std::span<float> zero_points);

// scales: [groups(axis)].   x, y: [rows, cols]; y may be x. Of the options, amax_floor is not used (scales are given);
// widths 2..18.
void fake_quant_symmetric(const Exec& exec, Matrix<const float> x, Axis axis, std::span<const float> scales,
                          const EncodeOptions& options, Matrix<float> y);
// zero_points: [groups(axis)].
void fake_quant_affine(const Exec& exec, Matrix<const float> x, Axis axis, std::span<const float> scales,
                       std::span<const float> zero_points, BitWidth width, Matrix<float> y);
// log_mins, log_ranges: [groups(axis)].
void fake_quant_log(const Exec& exec, Matrix<const float> x, Axis axis, std::span<const float> log_mins,
                    std::span<const float> log_ranges, BitWidth width, LogCodebook codebook, Matrix<float> y);

}  // namespace qat::kernels
