// Eight consecutive elements of a row as one lane moves them: 16 bytes of bf16, twice 16 bytes of fp32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace qat::kernels {

template <typename T>
struct Raw8;
template <>
struct Raw8<float> {
  float4 low, high;
};
template <>
struct Raw8<__nv_bfloat16> {
  uint4 bits;
};

__device__ __forceinline__ Raw8<float> load8(const float* from) {
  const auto* vectors = reinterpret_cast<const float4*>(from);
  return {vectors[0], vectors[1]};
}
__device__ __forceinline__ Raw8<__nv_bfloat16> load8(const __nv_bfloat16* from) {
  return {*reinterpret_cast<const uint4*>(from)};
}
__device__ __forceinline__ void store8(float* to, const Raw8<float>& raw) {
  reinterpret_cast<float4*>(to)[0] = raw.low;
  reinterpret_cast<float4*>(to)[1] = raw.high;
}
__device__ __forceinline__ void store8(__nv_bfloat16* to, const Raw8<__nv_bfloat16>& raw) {
  *reinterpret_cast<uint4*>(to) = raw.bits;
}

__device__ __forceinline__ void unpack8(const Raw8<float>& raw, float (&values)[8]) {
  values[0] = raw.low.x, values[1] = raw.low.y, values[2] = raw.low.z, values[3] = raw.low.w;
  values[4] = raw.high.x, values[5] = raw.high.y, values[6] = raw.high.z, values[7] = raw.high.w;
}
__device__ __forceinline__ void unpack8(const Raw8<__nv_bfloat16>& raw, float (&values)[8]) {
  const unsigned words[4] = {raw.bits.x, raw.bits.y, raw.bits.z, raw.bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = __uint_as_float(words[i] << 16);
    values[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
  }
}

// Element j of eight; bf16 is the upper half of an fp32 number.
__device__ __forceinline__ float element(const Raw8<__nv_bfloat16>& raw, int j) {
  const std::uint32_t word = j < 2 ? raw.bits.x : j < 4 ? raw.bits.y : j < 6 ? raw.bits.z : raw.bits.w;
  return __uint_as_float(j % 2 == 0 ? word << 16 : word & 0xFFFF0000U);
}
__device__ __forceinline__ float element(const Raw8<float>& raw, int j) {
  const float4& half = j < 4 ? raw.low : raw.high;
  return j % 4 == 0 ? half.x : j % 4 == 1 ? half.y : j % 4 == 2 ? half.z : half.w;
}

// Rounds to the element type, ties to even.
__device__ __forceinline__ unsigned bf16_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}
template <typename T>
__device__ __forceinline__ Raw8<T> pack8(const float (&v)[8]) {
  if constexpr (sizeof(T) == 4) {
    return {make_float4(v[0], v[1], v[2], v[3]), make_float4(v[4], v[5], v[6], v[7])};
  } else {
    return {make_uint4(bf16_pair(v[0], v[1]), bf16_pair(v[2], v[3]), bf16_pair(v[4], v[5]), bf16_pair(v[6], v[7]))};
  }
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
template <typename T>
__device__ __forceinline__ T from_float(float value) {
  if constexpr (sizeof(T) == 4) {
    return value;
  } else {
    return __float2bfloat16_rn(value);
  }
}

// Whether rows of `cols` elements that start here can be moved as Raw8.
inline bool fits_vectors(const void* data, std::int64_t cols) {
  return cols % 8 == 0 && reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
}

}  // namespace qat::kernels
