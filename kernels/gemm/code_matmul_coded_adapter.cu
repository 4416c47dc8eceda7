// A layer's product with its adapter for up to 64 rows of x, in two launches: what a token a text takes.
//
//   h[m,r] = bf16(a_scales[r] float(sum_k x[m,k] a[r,k]))
//   y[m,n] = (row_scales[m] col_scales[n]) (float(sum_k x[m,k] b[n,k]) + sum_r h[m,r] t[n,r]) (+ bias[n])
//
// x: [M, K], b: [N, K], a: [r, K] in int8, K a multiple of 16, r of 8 up to 64; t: [N, r] and y: [M, N] in bf16.
//
// The narrow kernel goes over b's rows and a's behind them, and leaves int32 sums: parts of [M, N + r]. The second
// kernel adds the parts up, makes h of the last r columns, and y of the others; the term is added in fp32, r by r.
#include <algorithm>

#include "kernels/common/error.h"
#include "kernels/gemm/code_matmul_adapter_cuda.h"
#include "kernels/gemm/code_matmul_coded_adapter_cuda.h"
#include "kernels/gemm/code_matmul_narrow.cuh"
#include "kernels/gemm/matmul_plan.h"

namespace qat::kernels {
namespace {

using narrow::quotient_up;

constexpr int kLeastSteps = 3;  // of a part: few rows are done before a longer part's ring has filled
constexpr int kCols = 32, kRowsAtOnce = 8, kThreads = kCols * kRowsAtOnce;
constexpr int kRows = 16;  // of y a block finishes, kCols wide

struct Shape {
  std::int64_t parts, part_elems;
};

Shape shape_of(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t rank) {
  const std::int64_t strips = quotient_up(n, narrow::kStripRows) + quotient_up(rank, narrow::kStripRows);
  return {narrow::parts_of(strips, k, kLeastSteps), quotient_up(m * (n + rank), 4) * 4};
}

struct TermArgs {
  const std::int32_t* sums;  // parts of [rows, cols + rank], part_elems apart
  std::int64_t part_elems;
  int parts, rank;
  const float* a_scales;
  bool per_rank;
  const __nv_bfloat16* t;  // [cols, rank]
  FinishArgs finish;       // rows, cols: of y
};

__device__ __forceinline__ int sum_of_parts(const TermArgs& args, std::int64_t row, std::int64_t col) {
  const std::int32_t* from = args.sums + row * (args.finish.cols + args.rank) + col;
  int sum = 0;
#pragma unroll 4
  for (int p = 0; p < args.parts; ++p) sum += from[p * args.part_elems];
  return sum;
}

// Block (x, y): kCols columns, kRows rows. A thread has one column, and t of it in registers.
template <int kMaxRank>
__global__ void __launch_bounds__(kThreads) finish_kernel(const TermArgs args) {
  __shared__ float h[kRows][kMaxRank];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.y) * kRows;
  const int rows = static_cast<int>(min(static_cast<std::int64_t>(kRows), args.finish.rows - first_row));
  for (int i = thread; i < rows * kMaxRank; i += kThreads) {
    const int row = i / kMaxRank, r = i % kMaxRank;
    float value = 0.0F;
    if (r < args.rank) {
      const float sum = __int2float_rn(sum_of_parts(args, first_row + row, args.finish.cols + r));
      value = to_float(__float2bfloat16_rn(__fmul_rn(args.a_scales[args.per_rank ? r : 0], sum)));
    }
    h[row][r] = value;
  }
  const std::int64_t col = static_cast<std::int64_t>(blockIdx.x) * kCols + thread % kCols;
  const bool inside = col < args.finish.cols;
  float t[kMaxRank];
#pragma unroll
  for (int r = 0; r < kMaxRank; r += 8) {
    uint4 eight{};
    if (inside && r < args.rank) eight = *reinterpret_cast<const uint4*>(args.t + col * args.rank + r);
    const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(&eight);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float2 two = __bfloat1622float2(pairs[e]);
      t[r + 2 * e] = two.x, t[r + 2 * e + 1] = two.y;
    }
  }
  __syncthreads();
  if (!inside) return;
  const FinishArgs& finish = args.finish;
  const float col_scale = finish.col_scales[finish.per_col ? col : 0];
  for (int i = thread / kCols; i < rows; i += kRowsAtOnce) {
    const std::int64_t row = first_row + i;
    float value = __int2float_rn(sum_of_parts(args, row, col));
#pragma unroll
    for (int r = 0; r < kMaxRank; ++r) value = __fmaf_rn(h[i][r], t[r], value);
    value = __fmul_rn(__fmul_rn(finish.row_scales[finish.per_row ? row : 0], col_scale), value);
    if (finish.bias != nullptr) value = __fadd_rn(value, finish.bias[col]);
    store_rounded(static_cast<__nv_bfloat16*>(finish.y) + row * finish.stride + col, value);
  }
}

bool is_aligned(const void* address) { return reinterpret_cast<std::uintptr_t>(address) % 16 == 0; }

}  // namespace

bool takes_coded_adapter_cuda(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t rank, DType out) {
  return m <= kMaxNarrowRows && takes_adapter_cuda(n, k, rank, out);
}

std::int64_t coded_adapter_scratch_cuda(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t rank) {
  const Shape shape = shape_of(m, n, k, rank);
  return shape.parts * shape.part_elems;
}

void code_matmul_coded_adapter_cuda(const Exec& exec, Matrix<const std::int8_t> x, Matrix<const std::int8_t> b,
                                    const CodeMatmulEpilogue& epilogue, const CodedAdapter& adapter,
                                    const FloatMatrix& y, std::int32_t* scratch) {
  QAT_CHECK(takes_coded_adapter_cuda(x.rows, b.rows, x.cols, adapter.a.rows, y.dtype),
            "callers ask takes_coded_adapter() first");
  QAT_CHECK(adapter.t.dtype == DType::kBFloat16 && adapter.t.is_dense(), "the adapter's t is dense bf16");
  QAT_CHECK(is_aligned(x.data) && is_aligned(b.data) && is_aligned(adapter.a.data) && is_aligned(adapter.t.data),
            "codes and t begin at multiples of 16 bytes");
  if (y.size() == 0) return;
  const std::int64_t rank = adapter.a.rows;
  const Shape shape = shape_of(x.rows, b.rows, x.cols, rank);
  FinishArgs finish = finish_args({.a = x, .b = b, .epilogue = epilogue, .y = y});
  FinishArgs sums = finish;
  sums.y = scratch, sums.stride = b.rows + rank;
  narrow::multiply(exec,
                   {.wide = b.data,
                    .tail = adapter.a.data,
                    .narrow = x.data,
                    .wide_rows = b.rows,
                    .tail_rows = rank,
                    .depth = x.cols,
                    .narrow_rows = static_cast<int>(x.rows),
                    .narrow_is_a = true,
                    .finish = sums,
                    .part_elems = shape.part_elems},
                   DType::kInt32, shape.parts);
  const TermArgs args{.sums = scratch,
                      .part_elems = shape.part_elems,
                      .parts = static_cast<int>(shape.parts),
                      .rank = static_cast<int>(rank),
                      .a_scales = adapter.a_scales.data(),
                      .per_rank = adapter.a_scales.size() > 1,
                      .t = static_cast<const __nv_bfloat16*>(adapter.t.data),
                      .finish = finish};
  const dim3 grid(static_cast<unsigned>(quotient_up(b.rows, kCols)), static_cast<unsigned>(quotient_up(x.rows, kRows)));
  if (rank <= 16)
    finish_kernel<16><<<grid, kThreads, 0, cuda_stream(exec)>>>(args);
  else if (rank <= 32)
    finish_kernel<32><<<grid, kThreads, 0, cuda_stream(exec)>>>(args);
  else
    finish_kernel<64><<<grid, kThreads, 0, cuda_stream(exec)>>>(args);
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace qat::kernels
