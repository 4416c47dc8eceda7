// Column codes of the gradient's tiles while they stand in the shared memory of adapter_products_kernel, written
// transposed: the second half of adapter_backward.h's one read of g.
#pragma once

#include "kernels/common/async_copy.cuh"
#include "kernels/common/codes.cuh"
#include "kernels/common/float_vectors.cuh"
#include "kernels/gemm/adapter_backward_cuda.h"
#include "kernels/gemm/adapter_backward_tiles.cuh"

namespace qat::kernels {

// What the kernel's own shared memory holds for the codes, from an address of 128 bytes on.
struct ColumnMemory {
  static constexpr int kStepCodes = kTileCols * kStepRows;  // bytes
  static constexpr int kFactors = 2 * kStepCodes;           // after the codes of this step and of the one before
  static constexpr int kInverses = kFactors + kStripRows * 4;
  static constexpr int kBytes = kInverses + 2 * kTileCols * 4;  // of this tile and of the next
};

// Codes nothing: the products alone are wanted.
class NoColumns {
 public:
  static constexpr int kBytes = 0;
  __device__ NoColumns(const ColumnArgs& /*a*/, const Strip& /*strip*/, unsigned /*slots*/, unsigned /*own*/) {}
  __device__ void start(const Tile& /*first*/) {}
  template <int kStep>
  __device__ void code_step(const Tile& /*tile*/, const Tile& /*next*/) {}
  __device__ void finish() {}
};

// A thread codes 4 rows x 16 columns of each step: one Philox block a row. Codes of a step go through shared memory as
// [128 columns][8 groups of 16 rows], group h of column c at h ^ (c / 16 % 4 * 2): a warp's writes (4 columns 16 apart
// x 8 words) then fall into 32 different banks, and so do eight lanes' reads. They are written out while the next step
// is coded, after the barrier between the two.
template <bool kStochastic>
class ColumnCoder {
 public:
  static constexpr int kBytes = ColumnMemory::kBytes;

  // slots, own: addresses in shared memory, of the ring of steps and of ColumnMemory.
  __device__ __forceinline__ ColumnCoder(const ColumnArgs& a, const Strip& strip, unsigned slots, unsigned own)
      : a_(a), strip_(strip), own_(own), blocks_a_row_(static_cast<std::uint32_t>(strip.cols / kRoundingDraws)) {
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const unsigned half = warp % 2, sixteenth = lane % 4, quad = warp / 2 * 8 + lane / 4;
    odd_ = quad % 2;
    group_ = half * 4 + sixteenth;
#pragma unroll
    for (unsigned k = 0; k < 2; ++k) {
      const unsigned row = quad * 4 + (k ^ odd_);
      from_[k] = slots + half * kHalfBytes + swizzled<128>(row * 128 + sixteenth * 32);
      factor_[k] = own + ColumnMemory::kFactors + row * 4;
      block_[k] = static_cast<std::uint64_t>(strip.first_row + row) * blocks_a_row_;
    }
    to_ = own + group_ * (16 * kStepRows) + ((quad / 4) ^ (sixteenth * 2)) * 16 + quad % 4 * 4;
    joined_ = odd_ != 0 ? kSwapped : kInOrder;
  }

  // Before the first step: the strip's row factors and the first tile's scales. The step's barrier shows them to all.
  __device__ __forceinline__ void start(const Tile& first) {
    for (int i = static_cast<int>(threadIdx.x); i < kStripRows; i += kThreads) {
      const std::int64_t row = strip_.first_row + i;
      write_shared(own_ + ColumnMemory::kFactors + static_cast<unsigned>(i) * 4,
                   __float_as_uint(row < strip_.rows ? a_.row_factors[row] : 0.0F));
    }
    next_scale_ = scale_in(first);
    keep_inverse();
  }

  // After the barrier of step kStep, whose rows of the tile stand in their slot.
  template <int kStep>
  __device__ __forceinline__ void code_step(const Tile& tile, const Tile& next) {
    write_out<(kStep + kSteps - 1) % kSteps>();  // of the tile before, if this is the first step
    if constexpr (kStep == 0) begin_tile(tile);
    if constexpr (kStep == 1) next_scale_ = scale_in(next);
    if constexpr (kStep == kSteps - 1) keep_inverse();  // the load has had two steps' time
    std::uint32_t words[2][kGroup];
    code_rows<kStep, 0>(words);
    code_rows<kStep, 1>(words);
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      if (marked_) zero_marked(words[v], inverse_[v]);
#pragma unroll
      for (int j = 0; j < kGroup; ++j)
        write_shared(to_ + static_cast<unsigned>(kStep % 2 * ColumnMemory::kStepCodes + (v * kGroup + j) * kStepRows),
                     words[v][j]);
    }
  }

  // After the last step.
  __device__ __forceinline__ void finish() {
    __syncthreads();
    write_out<kSteps - 1>();
  }

 private:
  static constexpr unsigned kByte = code_byte<kStochastic>;
  static constexpr unsigned kInOrder = kByte + 0x10 * (4 + kByte), kSwapped = 4 + kByte + 0x10 * kByte;

  static __device__ __forceinline__ void write_shared(unsigned address, std::uint32_t word) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
  }
  static __device__ __forceinline__ float read_float(unsigned address) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address));
    return value;
  }

  // Of the column threadIdx.x of a tile.
  __device__ __forceinline__ float scale_in(const Tile& tile) const {
    const int col = static_cast<int>(threadIdx.x);
    return col < kTileCols && col < tile.cols ? a_.scales[tile.first_col + col] : 1.0F;
  }
  __device__ __forceinline__ void keep_inverse() {
    if (threadIdx.x < kTileCols)
      write_shared(own_ + ColumnMemory::kInverses + next_inverses_ + threadIdx.x * 4,
                   __float_as_uint(__frcp_rn(next_scale_)));
    next_inverses_ ^= kTileCols * 4;
  }

  __device__ __forceinline__ void begin_tile(const Tile& tile) {
    const unsigned from = own_ + ColumnMemory::kInverses + (next_inverses_ ^ (kTileCols * 4)) + group_ * 64;
    marked_ = false;
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      unpack8(Raw8<float>{as_floats(read_shared(from + v * 32)), as_floats(read_shared(from + v * 32 + 16))},
              inverse_[v]);
#pragma unroll
      for (int j = 0; j < kGroup; ++j) marked_ |= inverse_[v][j] != inverse_[v][j];
    }
    tile_block_ = static_cast<std::uint32_t>(tile.first_col / kRoundingDraws) + group_;
    out_ = a_.codes + (tile.first_col + threadIdx.x / 8) * strip_.rows + strip_.first_row + threadIdx.x % 8 * 16;
    out_cols_ = tile.cols;
  }

  // Rows 2 kPair and 2 kPair + 1 of the thread's four: of each column, the two codes that make half a word. Lanes of
  // odd quads take the second row first, so that the pieces that eight lanes read lie in different banks.
  template <int kStep, int kPair>
  __device__ __forceinline__ void code_rows(std::uint32_t (&words)[2][kGroup]) const {
    std::uint32_t code[2][2][kGroup];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float row_factor = read_float(factor_[k] + (kStep * kStepRows + 2 * kPair) * 4);
      Draws8 draws[2] = {};
      if constexpr (kStochastic) {
        const Philox4 block =
            rounding_block(a_.keys, block_[k] + tile_block_ +
                                        static_cast<std::uint64_t>(kStep * kStepRows + 2 * kPair) * blocks_a_row_);
        draws[0] = {{block.v[0], block.v[1]}};
        draws[1] = {{block.v[2], block.v[3]}};
      }
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        // Two rows on and eight columns on each flip one bit of the swizzled piece.
        const Raw8<__nv_bfloat16> g{read_shared((from_[k] ^ (2 * kPair + v) * 16U) +
                                                static_cast<unsigned>(kStep * kSlotBytes + 2 * kPair * 128))};
#pragma unroll
        for (int j = 0; j < kGroup; ++j)
          code[k][v][j] = rounded_code<kStochastic>(element(g, j) * row_factor * inverse_[v][j], draws[v], j);
      }
    }
#pragma unroll
    for (int v = 0; v < 2; ++v)
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        const std::uint32_t two = __byte_perm(code[0][v][j], code[1][v][j], joined_);
        words[v][j] = kPair == 0 ? two : __byte_perm(words[v][j], two, 0x5410U);
      }
  }

  // The codes of step kStep of the tile that out_ is of: 16 rows of every 32nd column a thread.
  template <int kStep>
  __device__ __forceinline__ void write_out() const {
    const unsigned rows16 = threadIdx.x % 8, first = threadIdx.x / 8;
    const bool inside = strip_.first_row + kStep * kStepRows + rows16 * 16 < strip_.rows;
    uint4 codes[kTileCols / 32];
#pragma unroll
    for (unsigned i = 0; i < kTileCols / 32; ++i) {
      const unsigned col = first + i * 32, group = rows16 ^ (col / 16 % 4 * 2);
      codes[i] = read_shared(own_ + kStep % 2 * ColumnMemory::kStepCodes + col * kStepRows + group * 16);
    }
#pragma unroll
    for (unsigned i = 0; i < kTileCols / 32; ++i)
      if (inside && static_cast<int>(first + i * 32) < out_cols_)
        *reinterpret_cast<uint4*>(out_ + static_cast<std::int64_t>(i * 32) * strip_.rows + kStep * kStepRows) =
            codes[i];
  }

  const ColumnArgs& a_;
  const Strip& strip_;
  const unsigned own_;
  const std::uint32_t blocks_a_row_;
  unsigned odd_, group_;          // its 4 rows are an odd quad of the step's; its 16 columns of the tile's
  unsigned from_[2];              // in slot 0: its first row and the next, or the other way round
  unsigned factor_[2];            // of these rows
  std::uint64_t block_[2];        // Philox's, of column 0 of these rows in step 0
  std::uint32_t tile_block_ = 0;  // further on to the thread's columns
  unsigned to_, joined_;
  float next_scale_ = 1.0F;
  unsigned next_inverses_ = 0;
  float inverse_[2][kGroup];
  bool marked_ = false;
  std::int8_t* out_ = nullptr;  // where the thread's first 16 codes of the tile go
  int out_cols_ = 0;            // of the tile; none before the first one
};

}  // namespace qat::kernels
