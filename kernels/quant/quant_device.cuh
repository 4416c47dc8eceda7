// What the CUDA kernels of symmetric quantization share: eight neighbouring elements at a time, their draws, their
// codes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/common/philox.h"
#include "kernels/quant/code_passes_cuda.h"

namespace qat::kernels {

constexpr int kGroup = 8;  // columns of one thread: 16 bytes of bf16, and the draws of one Philox block
constexpr unsigned kWholeWarp = 0xFFFFFFFFU;

// Eight elements as they lie in memory.
template <typename T>
struct Raw8;
template <>
struct Raw8<__nv_bfloat16> {
  uint4 words = {0, 0, 0, 0};
  __device__ float at(int j) const {  // bf16 is the upper half of an fp32 number
    const std::uint32_t word = j < 2 ? words.x : j < 4 ? words.y : j < 6 ? words.z : words.w;
    return __uint_as_float(j % 2 == 0 ? word << 16 : word & 0xFFFF0000U);
  }
};
template <>
struct Raw8<float> {
  float4 low = {0, 0, 0, 0}, high = {0, 0, 0, 0};
  __device__ float at(int j) const {
    const float4& half = j < 4 ? low : high;
    return j % 4 == 0 ? half.x : j % 4 == 1 ? half.y : j % 4 == 2 ? half.z : half.w;
  }
};

__device__ inline Raw8<__nv_bfloat16> load8(const __nv_bfloat16* from) {
  return {*reinterpret_cast<const uint4*>(from)};
}
__device__ inline Raw8<float> load8(const float* from) {
  return {reinterpret_cast<const float4*>(from)[0], reinterpret_cast<const float4*>(from)[1]};
}
__device__ inline void store8(const Raw8<__nv_bfloat16>& values, __nv_bfloat16* to) {
  *reinterpret_cast<uint4*>(to) = values.words;
}
__device__ inline void store8(const Raw8<float>& values, float* to) {
  reinterpret_cast<float4*>(to)[0] = values.low;
  reinterpret_cast<float4*>(to)[1] = values.high;
}

__device__ inline std::uint32_t bf16_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}
template <typename T>
__device__ inline Raw8<T> round8(const float (&v)[kGroup]) {
  if constexpr (sizeof(T) == 2)
    return {{bf16_pair(v[0], v[1]), bf16_pair(v[2], v[3]), bf16_pair(v[4], v[5]), bf16_pair(v[6], v[7])}};
  else
    return {{v[0], v[1], v[2], v[3]}, {v[4], v[5], v[6], v[7]}};
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename T>
__device__ inline T from_float(float x) {
  if constexpr (sizeof(T) == 2)
    return __float2bfloat16_rn(x);
  else
    return x;
}

// Up to three matrices side by side, as the device sees them: part p holds columns end[p - 1] .. end[p] - 1.
struct SideBySide {
  const void* data[3];
  std::int64_t stride[3];
  std::int64_t end[3];
};
inline SideBySide side_by_side(const GradientColumns& x) {
  SideBySide result{};
  std::int64_t end = 0;
  for (int p = 0; p < 3; ++p) {
    const ConstFloatMatrix& part = x.parts[static_cast<std::size_t>(p < x.count ? p : 0)];
    if (p < x.count) end += part.cols;
    result.data[p] = part.data;
    result.stride[p] = part.stride;
    result.end[p] = end;
  }
  return result;
}
// The elements of column c, `stride` apart.
template <typename T>
struct Column {
  const T* first;
  std::int64_t stride;
  __device__ Column(const SideBySide& x, std::int64_t c) {
    const int p = c < x.end[0] ? 0 : c < x.end[1] ? 1 : 2;
    const void* data = p == 0 ? x.data[0] : p == 1 ? x.data[1] : x.data[2];
    const std::int64_t begin = p == 0 ? 0 : p == 1 ? x.end[0] : x.end[1];
    first = static_cast<const T*>(data) + (c - begin);
    stride = p == 0 ? x.stride[0] : p == 1 ? x.stride[1] : x.stride[2];
  }
  __device__ const T* row(std::int64_t r) const { return first + r * stride; }
};

// The larger magnitude; a NaN wins and stays. The bits of the result, as an integer, are those that row_coder.h
// compares.
__device__ inline float max_magnitude(float largest, float x) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(largest), "f"(fabsf(x)));
  return result;
}

__device__ inline float quiet_nan() { return __uint_as_float(0x7FC00000U); }

__device__ inline float scale_of_max_bits(std::uint32_t max_bits, float floor, float q_max) {
  if (max_bits >= 0x7F800000U) return quiet_nan();
  return __fdiv_rn(fmaxf(__uint_as_float(max_bits), floor), q_max);
}

// A group whose scale is NaN has the limit zero, which makes all of its codes zero (see clamp_magnitude).
__device__ inline float limit_of(float inverse, float q_max) { return inverse == inverse ? q_max : 0.0F; }

// sign(v) min(|v|, limit); a NaN becomes the limit.
__device__ inline float clamp_magnitude(float v, float limit) {
  float result;
  asm("min.xorsign.abs.f32 %0, %1, %2;" : "=f"(result) : "f"(v), "f"(limit));
  return result;
}

// Adding 1.5 * 2^23 leaves no bits for the fraction, and the integer stands in the low bits: conversions, which are
// slow, are not needed. The low byte of the result is the code.
constexpr float kIntegerShift = 12582912.0F;
__device__ inline std::uint32_t nearest_code(float v) { return __float_as_uint(v + kIntegerShift); }
__device__ inline std::uint32_t stochastic_code(float v, float u) {
  const float floored = __fadd_rd(v, kIntegerShift);
  const float fraction = v - (floored - kIntegerShift);
  return __float_as_uint(floored) + (u < fraction ? 1U : 0U);
}

// rounding_uniform of half j of a block: the half becomes the mantissa of 2^23 + half, and one exact fused multiply-add
// gives (2^23 + half) 2^-16 - (2^23 - 1/2) 2^-16.
__device__ inline float draw_of(const Philox4& block, int j) {
  const std::uint32_t bits = __byte_perm(block.v[j / 2], 0x4B000000U, j % 2 == 0 ? 0x7610U : 0x7632U);
  return __fmaf_rn(__uint_as_float(bits), 0x1p-16F, -0x1.FFFFFEp6F);
}

// The low bytes of eight codes, in order.
__device__ inline uint2 pack8(const std::uint32_t (&code)[kGroup]) {
  const auto four = [](std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
    return __byte_perm(__byte_perm(a, b, 0x0040U), __byte_perm(c, d, 0x0040U), 0x5410U);
  };
  return {four(code[0], code[1], code[2], code[3]), four(code[4], code[5], code[6], code[7])};
}

}  // namespace qat::kernels
