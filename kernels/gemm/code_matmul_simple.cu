// The integer GEMM for any shape and any address. Correct first: shapes that matter take the other paths.
//
//   y[m,n] = (row_scales[m] col_scales[n]) float(sum_k a[m,k] b[n,k]) (+ bias[n]), added to y or not, or the bare sums
//
// a: [M, K], b: [N, K] in int8; y: [M, N] in fp32, bf16 or int32.
//
// A block makes 64 x 64 sums, a thread 4 x 4 of them, 16 rows and columns apart. Codes pass through shared memory as
// words of four, zeros where a matrix ends, so that every product is a dp4a.
#include "kernels/common/cuda_check.h"
#include "kernels/common/error.h"
#include "kernels/gemm/code_matmul_finish.cuh"

namespace qat::kernels {
namespace {

constexpr int kTile = 64;
constexpr int kWords = 16;         // of the summed dimension at a time: 64 codes
constexpr int kPitch = kTile + 1;  // [word][row], odd, so that writing 16 words of two rows meets a bank at most twice
constexpr int kSide = 16;          // threads: kSide x kSide
constexpr int kThreads = kSide * kSide;
constexpr int kPerThread = kTile / kSide;

struct Operand {
  const std::int8_t* codes;
  std::int64_t rows;
  bool words;  // rows can be read as aligned words
};

__device__ int load_word(const Operand& m, std::int64_t depth, std::int64_t row, std::int64_t k) {
  if (row >= m.rows || k >= depth) return 0;
  const std::int8_t* from = m.codes + row * depth + k;
  if (m.words) return *reinterpret_cast<const int*>(from);
  unsigned word = 0;
  for (int i = 0; i < 4; ++i)
    if (k + i < depth) word |= static_cast<unsigned>(static_cast<std::uint8_t>(from[i])) << (8 * i);
  return static_cast<int>(word);
}

__device__ void load_tile(const Operand& m, std::int64_t depth, std::int64_t row, std::int64_t k, int (*tile)[kPitch]) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kWords; i += kThreads)
    tile[i % kWords][i / kWords] = load_word(m, depth, row + i / kWords, k + 4 * (i % kWords));
}

template <typename Out>
__global__ void __launch_bounds__(kThreads) simple_kernel(Operand a, Operand b, std::int64_t depth, FinishArgs args) {
  __shared__ int a_tile[kWords][kPitch];
  __shared__ int b_tile[kWords][kPitch];
  const std::int64_t col_tiles = (args.cols + kTile - 1) / kTile;
  const std::int64_t row = blockIdx.x / col_tiles * kTile, col = blockIdx.x % col_tiles * kTile;
  const int ty = static_cast<int>(threadIdx.x) / kSide, tx = static_cast<int>(threadIdx.x) % kSide;
  int sum[kPerThread][kPerThread] = {};
  for (std::int64_t k = 0; k < depth; k += 4 * kWords) {
    load_tile(a, depth, row, k, a_tile);
    load_tile(b, depth, col, k, b_tile);
    __syncthreads();
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      int bw[kPerThread];
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) bw[j] = b_tile[w][tx + j * kSide];
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
        const int aw = a_tile[w][ty + i * kSide];
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) sum[i][j] = __dp4a(aw, bw[j], sum[i][j]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kPerThread; ++i)
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const std::int64_t r = row + ty + i * kSide, c = col + tx + j * kSide;
      if (r < args.rows && c < args.cols) finish_sum<Out>(args, r, c, sum[i][j]);
    }
}

Operand operand(const Matrix<const std::int8_t>& m) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(m.data) % 4 == 0;
  return {m.data, m.rows, aligned && m.cols % 4 == 0};
}

}  // namespace

void matmul_simple(const Exec& exec, const CudaMatmul& call) {
  const auto tiles = [](std::int64_t n) { return (n + kTile - 1) / kTile; };
  const std::int64_t blocks = tiles(call.y.rows) * tiles(call.y.cols);
  QAT_CHECK(blocks < (std::int64_t{1} << 31), "an output of more tiles than a grid has blocks");
  const FinishArgs args = finish_args(call);
  with_out_type(call.y.dtype, [&](auto out) {
    simple_kernel<decltype(out)><<<static_cast<unsigned>(blocks), kThreads, 0, cuda_stream(exec)>>>(
        operand(call.a), operand(call.b), call.a.cols, args);
  });
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace qat::kernels
