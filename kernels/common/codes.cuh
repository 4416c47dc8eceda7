// The vocabulary of symmetric quantization on a GPU: magnitudes, the scales that they give, draws, codes and how they
// are packed. Mostly for eight neighbouring elements at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/common/float_vectors.cuh"
#include "kernels/common/philox.h"

namespace qat::kernels {

constexpr int kGroup = 8;  // columns of one thread: 16 bytes of bf16, and the draws of half a Philox block
constexpr unsigned kWholeWarp = 0xFFFFFFFFU;

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

// encode.h's scale of a row from the bits of its largest magnitude (infinity and NaN are above all numbers).
struct RowCode {
  float scale, inverse;
  unsigned keep;  // 0 for a row with an infinity or a NaN: its codes are 0

  __device__ RowCode(unsigned max_bits, float amax_floor, float q_max) {
    const bool finite = max_bits < 0x7F800000U;
    scale = finite ? __fdiv_rn(fmaxf(__uint_as_float(max_bits), amax_floor), q_max) : __uint_as_float(0x7FFFFFFFU);
    inverse = finite ? __fdiv_rn(1.0F, scale) : 0.0F;
    keep = finite ? ~0U : 0U;
  }
  // The low byte is the code. No clamp: the largest magnitude gives q_max (1 + 2^-22) at most.
  __device__ __forceinline__ unsigned one(float value) const { return shifted(value) & keep; }
  __device__ __forceinline__ uint2 eight(const float (&v)[8]) const {
    unsigned words[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const unsigned low = __byte_perm(shifted(v[4 * i]), shifted(v[4 * i + 1]), 0x0040);
      const unsigned high = __byte_perm(shifted(v[4 * i + 2]), shifted(v[4 * i + 3]), 0x0040);
      words[i] = __byte_perm(low, high, 0x5410) & keep;
    }
    return {words[0], words[1]};
  }

 private:
  __device__ __forceinline__ unsigned shifted(float value) const {
    return __float_as_uint(__fadd_rn(__fmul_rn(value, inverse), kIntegerShift));
  }
};

__device__ __forceinline__ unsigned magnitude_bits(float value) { return __float_as_uint(value) & 0x7FFFFFFFU; }

// The largest magnitude of a lane's elements, as the bits of an fp32 number; of bf16, two elements at a time.
template <typename T>
class LargestMagnitude;
template <>
class LargestMagnitude<float> {
 public:
  __device__ __forceinline__ void add(const Raw8<float>& raw) {
    float values[8];
    unpack8(raw, values);
#pragma unroll
    for (int e = 0; e < 8; ++e) bits_ = max(bits_, magnitude_bits(values[e]));
  }
  __device__ __forceinline__ unsigned bits() const { return bits_; }

 private:
  unsigned bits_ = 0;
};
template <>
class LargestMagnitude<__nv_bfloat16> {
 public:
  __device__ __forceinline__ void add(const Raw8<__nv_bfloat16>& raw) {
    constexpr unsigned kNoSigns = 0x7FFF7FFFU;
    const unsigned low = __vmaxu2(raw.bits.x & kNoSigns, raw.bits.y & kNoSigns);
    const unsigned high = __vmaxu2(raw.bits.z & kNoSigns, raw.bits.w & kNoSigns);
    halves_ = __vmaxu2(halves_, __vmaxu2(low, high));
  }
  __device__ __forceinline__ unsigned bits() const { return max(halves_ & 0xFFFF0000U, halves_ << 16); }

 private:
  unsigned halves_ = 0;
};

}  // namespace qat::kernels
