// Rows in registers, and how a group of warps shares one.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/common/cuda_check.h"
#include "kernels/common/multiprocessors.h"

namespace qat::kernels {

// A row of `cols` (a multiple of 8) elements is held by `warps` warps, `vectors` times 8 elements a lane:
// vector v of lane l is columns (v * 32 * warps + l) * 8 ... + 7.
struct RowShape {
  int warps = 0;  // 0: too wide
  int vectors = 0;
};

// The fewest idle lanes; among equals the most elements a lane, hence the fewest warps to wait for.
inline RowShape row_shape(std::int64_t cols, int max_vectors) {
  constexpr int kMaxWarps = 8;
  const std::int64_t units = (cols + 255) / 256;  // one warp's vector
  RowShape best;
  for (int v = max_vectors; v >= std::min<std::int64_t>(2, units); --v) {
    const std::int64_t w = (units + v - 1) / v;
    if (w <= kMaxWarps && (best.warps == 0 || w * v < best.warps * best.vectors)) best = {static_cast<int>(w), v};
  }
  return best;
}

// How many rows a CTA takes where their results need not leave it together: 32, or fewer if that would leave
// multiprocessors without work; a multiple of the `at_once` that it has in work at a time.
inline int rows_of_cta(std::int64_t rows, int at_once) {
  constexpr std::int64_t kMost = 32;
  const std::int64_t share = (rows + multiprocessors() - 1) / multiprocessors();
  return static_cast<int>(std::min(kMost, (share + at_once - 1) / at_once * at_once));
}

// The part of a CTA that works on one row. Groups of more than one warp meet at the barrier of the whole CTA, so every
// thread of it must make the same reductions; a group that has no row left takes part with zeros. Reductions give every
// lane the same bits, added in an order that the shape alone decides.
class RowGroup {
 public:
  static constexpr int kSlots = 2 * 64;  // two sets of two words a warp

  // slots: kSlots words of shared memory, of the whole CTA.
  __device__ RowGroup(unsigned* slots, int warps)
      : slots_(slots), warps_(warps), index_(static_cast<int>(threadIdx.x) / (32 * warps)) {}
  __device__ int index() const { return index_; }
  __device__ int count() const { return static_cast<int>(blockDim.x) / (32 * warps_); }
  __device__ int lane() const { return static_cast<int>(threadIdx.x) - index_ * 32 * warps_; }
  __device__ int column(int v) const { return (v * 32 * warps_ + lane()) * 8; }

  __device__ float sum(float value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0U, value, offset);
    if (warps_ == 1) return value;
    const unsigned* slots = exchange(__float_as_uint(value), 0U);
    value = 0.0F;
    for (int i = 0; i < warps_; ++i) value += __uint_as_float(slots[2 * i]);
    return value;
  }
  __device__ float2 sum(float2 value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      value.x += __shfl_xor_sync(~0U, value.x, offset);
      value.y += __shfl_xor_sync(~0U, value.y, offset);
    }
    if (warps_ == 1) return value;
    const unsigned* slots = exchange(__float_as_uint(value.x), __float_as_uint(value.y));
    value = {0.0F, 0.0F};
    for (int i = 0; i < warps_; ++i) {
      value.x += __uint_as_float(slots[2 * i]);
      value.y += __uint_as_float(slots[2 * i + 1]);
    }
    return value;
  }
  __device__ unsigned max(unsigned value) {
    value = __reduce_max_sync(~0U, value);
    if (warps_ == 1) return value;
    const unsigned* slots = exchange(value, 0U);
    const int other = static_cast<int>(threadIdx.x) % 32;
    return __reduce_max_sync(~0U, other < warps_ ? slots[2 * other] : 0U);
  }

 private:
  // Two sets of slots in turn: whoever writes a set again has passed the barrier of the other one, which every warp
  // reaches only after it has read this one.
  __device__ const unsigned* exchange(unsigned first, unsigned second) {
    turn_ ^= 64;
    unsigned* slots = slots_ + turn_;
    if (threadIdx.x % 32 == 0) {
      slots[threadIdx.x / 32 * 2] = first;
      slots[threadIdx.x / 32 * 2 + 1] = second;
    }
    __syncthreads();
    return slots + min(index_, count() - 1) * warps_ * 2;  // warps too few for a group read along with the last one
  }

  unsigned* slots_;
  int warps_, index_;
  int turn_ = 0;
};

// A kernel's limit of dynamic shared memory is 48 KB until it is raised.
template <typename Kernel>
void allow_shared_memory(Kernel* kernel, int bytes) {
  constexpr int kWithoutAsking = 40 * 1024;  // the kernel's static shared memory counts towards the 48 KB too
  if (bytes > kWithoutAsking)
    QAT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

}  // namespace qat::kernels
