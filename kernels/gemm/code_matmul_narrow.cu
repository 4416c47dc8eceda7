// Products of a matrix with up to 64 rows, the narrow one, and one with many, the wide one: reading the wide one is
// what they cost.
//
//   y[m,n] = (row_scales[m] col_scales[n]) float(sum_k a[m,k] b[n,k]) (+ bias[n]), or the bare sums
//
// a: [M, K], b: [N, K] in int8, K a multiple of 16; either may be the narrow one. y: [M, N] in fp32, bf16 or int32.
//
// A block has a strip of 128 rows of the wide matrix, all rows of the narrow one and a part of the sum, which it goes
// through in steps of 128 codes, with three steps on their way from memory while one is multiplied. Where strips alone
// would leave multiprocessors idle, the sum is cut into parts, and a second kernel adds what the parts came to:
// integers add up to the same in any order.
#include <algorithm>
#include <type_traits>

#include "kernels/common/async_copy.cuh"
#include "kernels/common/cuda_check.h"
#include "kernels/common/device_scratch.h"
#include "kernels/gemm/code_matmul_finish.cuh"

namespace qat::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kStripRows = 128;
constexpr int kWarpRows = kStripRows / (kThreads / 32);
constexpr int kMmaRows = 16, kMmaCols = 8, kMmaDepth = 32;  // of one instruction of the tensor cores
constexpr int kWarpMmas = kWarpRows / kMmaRows;
constexpr int kStepDepth = 128;           // codes, and bytes, of each row
constexpr int kPieces = kStepDepth / 16;  // of 16 bytes, the most that a thread copies at once
constexpr int kSlots = 4;                 // steps in shared memory
constexpr int kBlocksPerMultiprocessor = 2;
constexpr int kLeastSteps = 4;  // of a part: fewer would not fill the ring

template <int kRank>
constexpr int kSlotBytes = (kStripRows + kRank) * kStepDepth;

struct NarrowArgs {
  const std::int8_t* wide;    // [wide_rows, depth]
  const std::int8_t* narrow;  // [narrow_rows, depth]
  std::int64_t wide_rows, depth;
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

template <int kRank, typename Out>
__device__ void finish_strip(const NarrowArgs& args, const SumTile<kRank>& tile, std::int64_t first_row) {
  FinishArgs finish = args.finish;
  if constexpr (std::is_same_v<Out, std::int32_t>)
    finish.y = static_cast<std::int32_t*>(finish.y) + blockIdx.y * args.part_elems;
  const std::int64_t rows = args.wide_rows - first_row;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kStripRows * kRank; i += kThreads) {
    const int row = args.narrow_is_a ? i % kStripRows : i / kRank;
    const int col = args.narrow_is_a ? i / kStripRows : i % kRank;
    if (row >= rows || col >= args.narrow_rows) continue;
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
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * kStripRows;
  const int steps = static_cast<int>((args.depth + kStepDepth - 1) / kStepDepth);
  const int begin = steps * static_cast<int>(blockIdx.y) / static_cast<int>(gridDim.y);
  const int count = steps * static_cast<int>(blockIdx.y + 1) / static_cast<int>(gridDim.y) - begin;
  const auto slot_of = [&](int step) { return base + static_cast<unsigned>(step % kSlots * kSlotBytes<kRank>); };
  const auto copy_step = [&](int step) {
    if (step < count) {
      const std::int64_t k = static_cast<std::int64_t>(begin + step) * kStepDepth;
      const unsigned wide = slot_of(step), narrow = wide + kStripRows * kStepDepth;
      copy_rows<kStripRows>(args.wide + first_row * args.depth, args.wide_rows - first_row, args.depth, k, wide);
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
  finish_strip<kRank, Out>(args, tile, first_row);
}

constexpr int kLanes = 32;
constexpr int kGroups = 8;              // of threads that share the parts of a sum
constexpr int kBlockSums = 4 * kLanes;  // a thread reads four sums at a time

// y from the sums of `parts` parts, each of args.rows x args.cols and part_elems, a multiple of 4, after the one
// before.
template <typename Out>
__global__ void __launch_bounds__(kLanes* kGroups)
    add_parts_kernel(const std::int32_t* sums, int parts, std::int64_t part_elems, FinishArgs args) {
  __shared__ int4 shares[kGroups][kLanes];
  const int lane = static_cast<int>(threadIdx.x) % kLanes, group = static_cast<int>(threadIdx.x) / kLanes;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kBlockSums;
  int4 share{};
  if (first + 4 * lane < part_elems) {
#pragma unroll 4
    for (int p = group; p < parts; p += kGroups) {
      const int4 four = *reinterpret_cast<const int4*>(sums + p * part_elems + first + 4 * lane);
      share.x += four.x, share.y += four.y, share.z += four.z, share.w += four.w;
    }
  }
  shares[group][lane] = share;
  __syncthreads();
  const std::int64_t at = first + threadIdx.x;
  if (threadIdx.x >= kBlockSums || at >= args.rows * args.cols) return;
  int sum = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) sum += reinterpret_cast<const int*>(shares[g])[threadIdx.x];
  finish_sum<Out>(args, at / args.cols, at % args.cols, sum);
}

std::int64_t quotient_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

int multiprocessors() {
  int device = 0, count = 0;
  QAT_CUDA_CHECK(cudaGetDevice(&device));
  QAT_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// Into how many parts the sum is cut: as many as give every multiprocessor its blocks, in one round.
std::int64_t parts_of(std::int64_t strips, std::int64_t depth) {
  const std::int64_t wanted = multiprocessors() * kBlocksPerMultiprocessor / strips;
  return std::clamp<std::int64_t>(quotient_up(depth, kStepDepth) / kLeastSteps, 1, std::max<std::int64_t>(1, wanted));
}

template <int kRank, typename Out>
void launch(const Exec& exec, const NarrowArgs& args, dim3 grid) {
  constexpr int kBytes = kSlots * kSlotBytes<kRank>;
  QAT_CUDA_CHECK(cudaFuncSetAttribute(narrow_kernel<kRank, Out>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  narrow_kernel<kRank, Out><<<grid, kThreads, kBytes, cuda_stream(exec)>>>(args);
  QAT_CUDA_CHECK(cudaGetLastError());
}

void multiply(const Exec& exec, const NarrowArgs& args, DType out, std::int64_t parts) {
  const dim3 grid(static_cast<unsigned>(quotient_up(args.wide_rows, kStripRows)), static_cast<unsigned>(parts));
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

void multiply_in_parts(const Exec& exec, NarrowArgs args, const CudaMatmul& call, std::int64_t parts) {
  const FinishArgs finish = args.finish;
  args.part_elems = quotient_up(finish.rows * finish.cols, 4) * 4;
  const DeviceScratch<std::int32_t> sums(exec, parts * args.part_elems);
  args.finish.y = sums.get();
  args.finish.stride = finish.cols;
  multiply(exec, args, DType::kInt32, parts);
  const auto blocks = static_cast<unsigned>(quotient_up(args.part_elems, kBlockSums));
  with_out_type(call.y.dtype, [&](auto value) {
    add_parts_kernel<decltype(value)><<<blocks, kLanes * kGroups, 0, cuda_stream(exec)>>>(
        sums.get(), static_cast<int>(parts), args.part_elems, finish);
  });
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void matmul_narrow(const Exec& exec, const CudaMatmul& call) {
  const bool narrow_is_a = call.a.rows < call.b.rows;
  const Matrix<const std::int8_t>& narrow = narrow_is_a ? call.a : call.b;
  const Matrix<const std::int8_t>& wide = narrow_is_a ? call.b : call.a;
  const NarrowArgs args{.wide = wide.data,
                        .narrow = narrow.data,
                        .wide_rows = wide.rows,
                        .depth = wide.cols,
                        .narrow_rows = static_cast<int>(narrow.rows),
                        .narrow_is_a = narrow_is_a,
                        .finish = finish_args(call),
                        .part_elems = 0};
  const std::int64_t parts = parts_of(quotient_up(wide.rows, kStripRows), wide.cols);
  if (parts > 1)
    multiply_in_parts(exec, args, call, parts);
  else
    multiply(exec, args, call.y.dtype, 1);
}

}  // namespace qat::kernels
