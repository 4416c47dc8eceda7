// The kernel of products with up to 64 rows on one side (code_matmul_narrow.cu): a strip of 128 rows of the wide matrix
// a block, and a part of the sum.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/common/async_copy.cuh"
#include "kernels/common/cuda_check.h"
#include "kernels/common/multiprocessors.h"
#include "kernels/gemm/code_matmul_finish.cuh"

namespace qat::kernels::narrow {

constexpr int kThreads = 128;
constexpr int kStripRows = 128;
constexpr int kWarpRows = kStripRows / (kThreads / 32);
constexpr int kMmaRows = 16, kMmaCols = 8, kMmaDepth = 32;  // of one instruction of the tensor cores
constexpr int kWarpMmas = kWarpRows / kMmaRows;
constexpr int kStepDepth = 128;           // codes, and bytes, of each row
constexpr int kPieces = kStepDepth / 16;  // of 16 bytes, the most that a thread copies at once
constexpr int kSlots = 4;                 // steps in shared memory
constexpr int kBlocksPerMultiprocessor = 2;

template <int kRank>
constexpr int kSlotBytes = (kStripRows + kRank) * kStepDepth;

struct NarrowArgs {
  const std::int8_t* wide;    // [wide_rows, depth]
  const std::int8_t* tail;    // [tail_rows, depth]: more rows of it, which stand elsewhere
  const std::int8_t* narrow;  // [narrow_rows, depth]
  std::int64_t wide_rows, tail_rows, depth;
  int narrow_rows;
  bool narrow_is_a;         // y is [narrow, wide]; otherwise [wide, narrow]
  FinishArgs finish;        // with int32 outputs: of part 0
  std::int64_t part_elems;  // how much later the next part's sums start
};

// A warp's 32 rows times kRank columns. Element e of sums[i][j] is row 16 i + lane / 4 (+ 8 if e & 2) and column
// 8 j + lane % 4 * 2 + e % 2.
template <int kRank>
using WarpSums = int[kWarpMmas][kRank / kMmaCols][4];

// Returns when all but the newest kOpen closed groups have arrived, for everybody.
template <int kOpen>
__device__ __forceinline__ void wait_for_copies() {
  wait_for_own_copies<kOpen>();
  __syncthreads();
}

// Four matrices of 8 rows x 16 bytes, one in each register: lane l gives the address of row l % 8 of matrix l / 8 and
// gets bytes l % 4 * 4 .. + 3 of row l / 4 of each.
__device__ __forceinline__ void load_matrices(unsigned address, unsigned (&to)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void multiply_add(int (&sums)[4], const unsigned (&a)[4], unsigned b_low, unsigned b_high) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

// Where a piece of a row lies in a slot: pieces exchanged within each row, so that eight rows' pieces of the same codes
// lie in different banks.
__device__ __forceinline__ unsigned place(int row, int piece) {
  return static_cast<unsigned>(row * kStepDepth + ((piece ^ (row % 8)) * 16));
}

// Codes k .. k + 127 of the kRows rows that start at `from`, `rows` of which exist; the others are zeros.
template <int kRows>
__device__ __forceinline__ void copy_rows(const std::int8_t* from, std::int64_t rows, std::int64_t depth,
                                          std::int64_t k, unsigned to) {
  constexpr int kRowsAtOnce = kThreads / kPieces;
  const int piece = static_cast<int>(threadIdx.x) % kPieces, first = static_cast<int>(threadIdx.x) / kPieces;
  const std::int64_t col = k + piece * 16;
  const std::int8_t* at = from + first * depth + col;
  to += place(first, piece);
#pragma unroll
  for (int i = 0; i < kRows / kRowsAtOnce; ++i) {  // 16 rows on, pieces are exchanged the same way
    const bool inside = col < depth && first + i * kRowsAtOnce < rows;
    copy16(to + static_cast<unsigned>(i * kRowsAtOnce * kStepDepth), inside ? at : from, inside);
    at += kRowsAtOnce * depth;
  }
}

template <int kRank>
__device__ __forceinline__ void multiply_step(unsigned wide, unsigned narrow, WarpSums<kRank>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int a_row = warp * kWarpRows + lane % 16, a_piece = lane / 16;
  const int b_row = lane / 16 * 8 + lane % 8, b_piece = lane / 8 % 2;
#pragma unroll
  for (int k = 0; k < kStepDepth / kMmaDepth; ++k) {
    unsigned a[kWarpMmas][4];
#pragma unroll
    for (int i = 0; i < kWarpMmas; ++i) load_matrices(wide + place(a_row + i * kMmaRows, 2 * k + a_piece), a[i]);
#pragma unroll
    for (int j = 0; j < kRank / kMmaCols; j += 2) {
      unsigned b[4];
      load_matrices(narrow + place(b_row + j * kMmaCols, 2 * k + b_piece), b);
#pragma unroll
      for (int i = 0; i < kWarpMmas; ++i) {
        multiply_add(sums[i][j], a[i], b[0], b[1]);
        multiply_add(sums[i][j + 1], a[i], b[2], b[3]);
      }
    }
  }
}

// The block's sums in shared memory, so that neighbouring threads write neighbouring elements of y.
template <int kRank>
struct SumTile {
  static constexpr int kInts = std::max(kStripRows * (kRank + 8), (kStripRows + 4) * kRank);
  static_assert(kInts * 4 <= kSlots * kSlotBytes<kRank>, "the ring is reused");

  int* sums;
  int row_pitch, col_pitch;  // in ints; padded for the banks

  __device__ SumTile(void* memory, bool narrow_is_a)
      : sums(static_cast<int*>(memory)),
        row_pitch(narrow_is_a ? 1 : kRank + 8),
        col_pitch(narrow_is_a ? kStripRows + 4 : 1) {}
  __device__ int& at(int row, int col) const { return sums[row * row_pitch + col * col_pitch]; }

  __device__ void fill(const WarpSums<kRank>& from) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int row = warp * kWarpRows + lane / 4, col = lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kWarpMmas; ++i)
#pragma unroll
      for (int j = 0; j < kRank / kMmaCols; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) at(row + i * kMmaRows + e / 2 * 8, col + j * kMmaCols + e % 2) = from[i][j][e];
  }
};

// A block's rows of the wide matrix: `rows` from `first` on of one of its two pieces, which are rows `first + offset`
// of the whole.
struct Strip {
  const std::int8_t* from;
  std::int64_t first, rows, offset;

  __device__ explicit Strip(const NarrowArgs& args) {
    const std::int64_t strips = (args.wide_rows + kStripRows - 1) / kStripRows;
    const bool in_tail = blockIdx.x >= strips;
    first = (static_cast<std::int64_t>(blockIdx.x) - (in_tail ? strips : 0)) * kStripRows;
    rows = (in_tail ? args.tail_rows : args.wide_rows) - first;
    from = (in_tail ? args.tail : args.wide) + first * args.depth;
    offset = in_tail ? args.wide_rows : 0;
  }
};

template <int kRank, typename Out>
__device__ void finish_strip(const NarrowArgs& args, const SumTile<kRank>& tile, const Strip& strip) {
  FinishArgs finish = args.finish;
  if constexpr (std::is_same_v<Out, std::int32_t>)
    finish.y = static_cast<std::int32_t*>(finish.y) + blockIdx.y * args.part_elems;
  const std::int64_t first_row = strip.offset + strip.first;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kStripRows * kRank; i += kThreads) {
    const int row = args.narrow_is_a ? i % kStripRows : i / kRank;
    const int col = args.narrow_is_a ? i / kStripRows : i % kRank;
    if (row >= strip.rows || col >= args.narrow_rows) continue;
    if (args.narrow_is_a)
      finish_sum<Out>(finish, col, first_row + row, tile.at(row, col));
    else
      finish_sum<Out>(finish, first_row + row, col, tile.at(row, col));
  }
}

// Block (x, y): strip x, part y of the sum. Only with int32 outputs may there be more than one part.
template <int kRank, typename Out>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor) narrow_kernel(const NarrowArgs args) {
  extern __shared__ __align__(128) unsigned char ring[];
  const auto base = shared_address(ring);
  const Strip strip(args);
  const int steps = static_cast<int>((args.depth + kStepDepth - 1) / kStepDepth);
  const int begin = steps * static_cast<int>(blockIdx.y) / static_cast<int>(gridDim.y);
  const int count = steps * static_cast<int>(blockIdx.y + 1) / static_cast<int>(gridDim.y) - begin;
  const auto slot_of = [&](int step) { return base + static_cast<unsigned>(step % kSlots * kSlotBytes<kRank>); };
  const auto copy_step = [&](int step) {
    if (step < count) {
      const std::int64_t k = static_cast<std::int64_t>(begin + step) * kStepDepth;
      const unsigned wide = slot_of(step), narrow = wide + kStripRows * kStepDepth;
      copy_rows<kStripRows>(strip.from, strip.rows, args.depth, k, wide);
      copy_rows<kRank>(args.narrow, args.narrow_rows, args.depth, k, narrow);
    }
    close_copies();  // empty ones too: they are counted
  };

#pragma unroll 1
  for (int step = 0; step < kSlots - 1; ++step) copy_step(step);
  WarpSums<kRank> sums = {};
#pragma unroll 1
  for (int step = 0; step < count; ++step) {
    wait_for_copies<kSlots - 2>();
    copy_step(step + kSlots - 1);  // into the slot of the step before, with which everybody has finished
    multiply_step<kRank>(slot_of(step), slot_of(step) + kStripRows * kStepDepth, sums);
  }
  __syncthreads();
  const SumTile<kRank> tile(ring, args.narrow_is_a);
  tile.fill(sums);
  __syncthreads();
  finish_strip<kRank, Out>(args, tile, strip);
}

inline std::int64_t quotient_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Into how many parts of `least_steps` steps or more the sum is cut: as many as give every multiprocessor its blocks,
// in one round.
inline std::int64_t parts_of(std::int64_t strips, std::int64_t depth, std::int64_t least_steps) {
  const std::int64_t wanted = multiprocessors() * kBlocksPerMultiprocessor / strips;
  return std::clamp<std::int64_t>(quotient_up(depth, kStepDepth) / least_steps, 1, std::max<std::int64_t>(1, wanted));
}

template <int kRank, typename Out>
void launch(const Exec& exec, const NarrowArgs& args, dim3 grid) {
  constexpr int kBytes = kSlots * kSlotBytes<kRank>;
  QAT_CUDA_CHECK(cudaFuncSetAttribute(narrow_kernel<kRank, Out>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  narrow_kernel<kRank, Out><<<grid, kThreads, kBytes, cuda_stream(exec)>>>(args);
  QAT_CUDA_CHECK(cudaGetLastError());
}

inline void multiply(const Exec& exec, const NarrowArgs& args, DType out, std::int64_t parts) {
  const std::int64_t strips = quotient_up(args.wide_rows, kStripRows) + quotient_up(args.tail_rows, kStripRows);
  const dim3 grid(static_cast<unsigned>(strips), static_cast<unsigned>(parts));
  with_out_type(out, [&](auto value) {
    using Out = decltype(value);
    if (args.narrow_rows <= 16)
      launch<16, Out>(exec, args, grid);
    else if (args.narrow_rows <= 32)
      launch<32, Out>(exec, args, grid);
    else
      launch<64, Out>(exec, args, grid);
  });
}

}  // namespace qat::kernels::narrow
