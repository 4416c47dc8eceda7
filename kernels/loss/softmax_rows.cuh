// What kernels that take softmax over long rows share: 16 bytes of a row at a time, and the maximum and sum of what has
// been read so far (Milakov & Gimelshein, arXiv:1805.02867). A CTA a row.
#pragma once

#include <cuda_bf16.h>

#include <cfloat>

#include "kernels/common/float_vectors.cuh"

namespace qat::kernels {

__device__ __forceinline__ float exp_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950409F));
  return y;
}

// 16 bytes of a row.
template <typename T>
struct Chunk {
  static constexpr int kElems = 16 / sizeof(T);
  uint4 bits;

  __device__ void unpack(float (&v)[kElems]) const {
    const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (sizeof(T) == 4) {
        v[i] = __uint_as_float(words[i]);
      } else {
        v[2 * i] = __uint_as_float(words[i] << 16);
        v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
      }
    }
  }
  __device__ void pack(const float (&v)[kElems]) {
    unsigned words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (sizeof(T) == 4) {
        words[i] = __float_as_uint(v[i]);
      } else {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
        words[i] = *reinterpret_cast<const unsigned*>(&pair);
      }
    }
    bits = make_uint4(words[0], words[1], words[2], words[3]);
  }
};

// Maximum and sum of exp(x - maximum) of what was added so far. Starts below every finite value instead of at
// -infinity, whose difference from itself is NaN: a logit of -infinity is a class that cannot be.
struct Running {
  float largest = -FLT_MAX;
  float sum = 0.0F;

  template <int kElems>
  __device__ __forceinline__ void add(const float (&v)[kElems]) {
    float here = v[0];
#pragma unroll
    for (int e = 1; e < kElems; ++e) here = fmaxf(here, v[e]);
    if (here > largest) {
      sum *= exp_fast(largest - here);
      largest = here;
    }
    float terms = 0.0F;
#pragma unroll
    for (int e = 0; e < kElems; ++e) terms += exp_fast(v[e] - largest);
    sum += terms;
  }
  __device__ __forceinline__ void join(float other_largest, float other_sum) {
    const float both = fmaxf(largest, other_largest);
    sum = sum * exp_fast(largest - both) + other_sum * exp_fast(other_largest - both);
    largest = both;
  }
};

// The CTA's total, the same bits in every thread.
__device__ inline Running join_cta(Running mine) {
  __shared__ float largest[32], sums[32];
  const unsigned lane = threadIdx.x % 32;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other_largest = __shfl_xor_sync(~0U, mine.largest, offset);
    const float other_sum = __shfl_xor_sync(~0U, mine.sum, offset);
    mine.join(other_largest, other_sum);
  }
  if (lane == 0) {
    largest[threadIdx.x / 32] = mine.largest;
    sums[threadIdx.x / 32] = mine.sum;
  }
  __syncthreads();
  const unsigned warps = blockDim.x / 32;
  mine = Running{};
  for (unsigned warp = 0; warp < warps; ++warp) mine.join(largest[warp], sums[warp]);
  return mine;
}

}  // namespace qat::kernels
