// Rows in registers: how a group of warps shares one, and how its codes get out, straight and transposed.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/common/cuda_check.h"
#include "kernels/common/float_vectors.cuh"

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
  // The low byte is the code. |value * inverse| < 128, so adding 1.5 * 2^23 rounds to whole numbers, ties to even; no
  // clamp: the largest magnitude gives q_max (1 + 2^-22) at most.
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
    return __float_as_uint(__fadd_rn(__fmul_rn(value, inverse), 12582912.0F));
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

// Codes of 32 or 64 whole rows in shared memory, to be written as columns in runs of as many bytes.
// Rows are padded to 128 bytes, and the 16-row group g of a row exchanges pieces of 2048 / rows bytes within each 128
// (by xor with g), so that the lanes of a warp, which read four bytes of different groups, meet no bank twice.
struct CodeTile {
  unsigned char* bytes;
  int pitch;
  int log2_groups;  // of 16 rows: 1 or 2

  static constexpr int kMaxBytes = 220 * 1024;
  static constexpr int kMaxBytesOfTwo = 106 * 1024;  // of which a multiprocessor has room for two
  static int pitch_of(std::int64_t cols) { return static_cast<int>((cols + 127) / 128 * 128); }
  // 64 rows where two CTAs and their registers still fit a multiprocessor, and enough tiles are left to fill the chip.
  static int rows_for(std::int64_t rows, std::int64_t cols) {
    return 64 * pitch_of(cols) <= kMaxBytesOfTwo && rows >= 64 * 264 ? 64 : 32;
  }

  __device__ int offset(int row, int col) const {
    const int group = row >> 4;
    return row * pitch + (col ^ (group << (7 - log2_groups)));
  }
  __device__ void put(int row, int col, uint2 codes) const {
    *reinterpret_cast<uint2*>(bytes + offset(row, col)) = codes;
  }

  // out: [cols, rows], the tile is rows row0 .. row0 + tile_rows - 1 of the matrix. After a barrier; by the whole CTA.
  __device__ void write_transposed(std::int8_t* out, std::int64_t rows, std::int64_t row0, int tile_rows,
                                   int cols) const {
    const bool aligned = rows % 16 == 0 && reinterpret_cast<std::uintptr_t>(out) % 16 == 0;
    const int items = (cols / 4) << log2_groups;
    for (int item = static_cast<int>(threadIdx.x); item < items; item += static_cast<int>(blockDim.x)) {
      const int first = (item & ((1 << log2_groups) - 1)) * 16;
      const int col = (item >> log2_groups) * 4;
      if (first >= tile_rows) continue;
      unsigned columns[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        unsigned w[4];
#pragma unroll
        for (int j = 0; j < 4; ++j)
          w[j] = *reinterpret_cast<const unsigned*>(bytes + offset(first, col) + (4 * i + j) * pitch);
        const unsigned a = __byte_perm(w[0], w[1], 0x5140), b = __byte_perm(w[0], w[1], 0x7362);
        const unsigned c = __byte_perm(w[2], w[3], 0x5140), d = __byte_perm(w[2], w[3], 0x7362);
        columns[0][i] = __byte_perm(a, c, 0x5410);
        columns[1][i] = __byte_perm(a, c, 0x7632);
        columns[2][i] = __byte_perm(b, d, 0x5410);
        columns[3][i] = __byte_perm(b, d, 0x7632);
      }
      std::int8_t* to = out + col * rows + row0 + first;
#pragma unroll
      for (int j = 0; j < 4; ++j, to += rows) {
        if (aligned) {
          *reinterpret_cast<uint4*>(to) = make_uint4(columns[j][0], columns[j][1], columns[j][2], columns[j][3]);
        } else {
#pragma unroll
          for (int k = 0; k < 16; ++k)
            if (first + k < tile_rows) to[k] = static_cast<std::int8_t>(columns[j][k / 4] >> (8 * (k % 4)));
        }
      }
    }
  }
};

// A kernel's limit of dynamic shared memory is 48 KB until it is raised.
template <typename Kernel>
void allow_shared_memory(Kernel* kernel, int bytes) {
  constexpr int kWithoutAsking = 40 * 1024;  // the kernel's static shared memory counts towards the 48 KB too
  if (bytes > kWithoutAsking)
    QAT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

}  // namespace qat::kernels
