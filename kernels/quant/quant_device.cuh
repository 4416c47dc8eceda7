// What the CUDA kernels of symmetric quantization share: eight neighbouring elements at a time, their draws, their
// codes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/common/float_vectors.cuh"
#include "kernels/common/philox.h"
#include "kernels/quant/code_passes_cuda.h"

namespace qat::kernels {

constexpr int kGroup = 8;  // columns of one thread: 16 bytes of bf16, and the draws of half a Philox block
constexpr unsigned kWholeWarp = 0xFFFFFFFFU;

// Element j of eight; bf16 is the upper half of an fp32 number.
__device__ __forceinline__ float element(const Raw8<__nv_bfloat16>& raw, int j) {
  const std::uint32_t word = j < 2 ? raw.bits.x : j < 4 ? raw.bits.y : j < 6 ? raw.bits.z : raw.bits.w;
  return __uint_as_float(j % 2 == 0 ? word << 16 : word & 0xFFFF0000U);
}
__device__ __forceinline__ float element(const Raw8<float>& raw, int j) {
  const float4& half = j < 4 ? raw.low : raw.high;
  return j % 4 == 0 ? half.x : j % 4 == 1 ? half.y : j % 4 == 2 ? half.z : half.w;
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

// floor(v + (byte + 1/2) / 256) for |v| <= 127.5, in byte 1 of the result. Around 1.5 * 2^15 fp32 has eight bits below
// the point: the sum is 256 v + byte rounded to whole 256ths, with the integer above them. It carries into the next
// integer from 255.5 on, half included, since a tie goes to the even number of 256ths: that of the whole number.
__device__ inline std::uint32_t stochastic_code(float v, float shifted) { return __float_as_uint(v + shifted); }

// The draws of eight neighbouring elements, in order.
struct Draws8 {
  std::uint32_t words[2];
};
// The summand that stochastic_code wants, of one draw and of draw j of eight.
__device__ inline float shifted_draw(std::uint32_t byte) { return __uint_as_float(0x47400000U | byte); }
__device__ inline float shifted_draw(const Draws8& draws, int j) {
  return __uint_as_float(__byte_perm(draws.words[j / 4], 0x47400000U, 0x7650U + static_cast<unsigned>(j % 4)));
}

// The draws of elements 8 eighth ... 8 eighth + 7.
__device__ inline Draws8 draws_of(const RoundingKeys& keys, std::uint64_t eighth) {
  const Philox4 block = rounding_block(keys, eighth / 2);
  return eighth % 2 == 0 ? Draws8{{block.v[0], block.v[1]}} : Draws8{{block.v[2], block.v[3]}};
}

// The same for two eighths, for one block a lane. Lanes 2 i and 2 i + 1 must own the two halves of the same blocks:
// `first` and `second` are even in even lanes, and one larger in the next. The whole warp calls it.
__device__ inline void draws_of_pair(const RoundingKeys& keys, std::uint64_t first, std::uint64_t second,
                                     Draws8& of_first, Draws8& of_second) {
  const bool odd = threadIdx.x % 2 != 0;  // works out the second block, an even lane the first
  const Philox4 block = rounding_block(keys, (odd ? second : first) / 2);
  const Draws8 own{{odd ? block.v[2] : block.v[0], odd ? block.v[3] : block.v[1]}};
  Draws8 other{{odd ? block.v[0] : block.v[2], odd ? block.v[1] : block.v[3]}};
#pragma unroll
  for (std::uint32_t& word : other.words) word = __shfl_xor_sync(kWholeWarp, word, 1);
  of_first = odd ? other : own;
  of_second = odd ? own : other;
}

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}
// Volatile: read when and as often as the caller says, for what should not be kept in registers.
__device__ __forceinline__ uint4 read_shared(unsigned address) {
  uint4 words;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "r"(address));
  return words;
}
__device__ __forceinline__ float4 as_floats(const uint4& words) {
  return {__uint_as_float(words.x), __uint_as_float(words.y), __uint_as_float(words.z), __uint_as_float(words.w)};
}

// The bits whose byte code_byte<kStochastic> is the code of v; draws are of its group.
template <bool kStochastic>
constexpr unsigned code_byte = kStochastic ? 1 : 0;
template <bool kStochastic>
__device__ inline std::uint32_t rounded_code(float v, const Draws8& draws, int j) {
  return kStochastic ? stochastic_code(v, shifted_draw(draws, j)) : nearest_code(v);
}

// Columns whose scale is NaN have the code 0. codes: one word a column.
__device__ inline void zero_marked(std::uint32_t (&codes)[kGroup], const float (&inverse)[kGroup]) {
#pragma unroll
  for (int j = 0; j < kGroup; ++j) codes[j] = inverse[j] == inverse[j] ? codes[j] : 0;
}

// Eight codes, in order.
template <bool kStochastic>
__device__ inline uint2 pack_codes(const std::uint32_t (&code)[kGroup]) {
  constexpr unsigned kPair = 0x0040U + 0x0011U * code_byte<kStochastic>;
  const auto four = [](std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
    return __byte_perm(__byte_perm(a, b, kPair), __byte_perm(c, d, kPair), 0x5410U);
  };
  return {four(code[0], code[1], code[2], code[3]), four(code[4], code[5], code[6], code[7])};
}

}  // namespace qat::kernels
