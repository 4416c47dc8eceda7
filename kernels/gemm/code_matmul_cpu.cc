// code_matmul.h on a CPU: the specification of all integer GEMMs.
//
//   y[m,n] = (row_scales[m] col_scales[n]) float(sum_k a[m,k] b[n,k]) (+ bias[n]), added to y or not, or the bare sums
//
// a: [M, K], b: [N, K] in int8; y: [M, N] in fp32. Threads share the rows of y; sums of a few columns at a time are
// scaled while they are in a cache, whoever made them (here, or code_matmul_avx2.cc).
#include "kernels/gemm/code_matmul_cpu.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace qat::kernels {
namespace {

struct FinishArgs {
  const CodeMatmulTarget* target;
  SumBlock block;
  const std::int32_t* sums;
};

// `n` columns of one row. With n a constant of a few vectors, `value` stays in registers.
QAT_ALWAYS_INLINE void scale_piece(const std::int32_t* __restrict sums, std::int64_t n, float row_scale,
                                   const float* __restrict col_scales, bool per_column, const float* __restrict bias,
                                   bool accumulate, float* __restrict y) {
  float value[kSumPiece];
  const float one_scale = row_scale * col_scales[0];
  if (per_column)
    for (std::int64_t i = 0; i < n; ++i) value[i] = (row_scale * col_scales[i]) * static_cast<float>(sums[i]);
  else
    for (std::int64_t i = 0; i < n; ++i) value[i] = one_scale * static_cast<float>(sums[i]);
  if (bias != nullptr)
    for (std::int64_t i = 0; i < n; ++i) value[i] = value[i] + bias[i];
  if (accumulate)
    for (std::int64_t i = 0; i < n; ++i) value[i] = y[i] + value[i];
  for (std::int64_t i = 0; i < n; ++i) y[i] = value[i];
}

QAT_ALWAYS_INLINE void finish_body(const FinishArgs& args) {
  const auto& [row_scales, col_scales, bias, accumulate] = args.target->epilogue;
  const auto& [row, col, rows, cols] = args.block;
  const bool per_column = col_scales.size() > 1, per_row = row_scales.size() > 1;
  const float* scale = col_scales.data() + (per_column ? col : 0);
  const float* add = bias.empty() ? nullptr : bias.data() + col;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float row_scale = row_scales.data()[per_row ? row + r : 0];
    const std::int32_t* sums = args.sums + r * kSumPiece;
    float* to = args.target->y.row(row + r) + col;
    if (cols == kSumPiece)
      scale_piece(sums, kSumPiece, row_scale, scale, per_column, add, accumulate, to);
    else
      scale_piece(sums, cols, row_scale, scale, per_column, add, accumulate, to);
  }
}

std::int32_t dot(const std::int8_t* a, const std::int8_t* b, std::int64_t depth) {
  std::int32_t sum = 0;
  for (std::int64_t k = 0; k < depth; ++k) sum += static_cast<std::int32_t>(a[k]) * static_cast<std::int32_t>(b[k]);
  return sum;
}

void code_matmul_portable(const Exec& exec, const Matrix<const std::int8_t>& a, const Matrix<const std::int8_t>& b,
                          const CodeMatmulTarget& target) {
  exec.for_ranges(a.rows, /*grain=*/4, [&](std::int64_t begin, std::int64_t end) {
    std::array<std::int32_t, kSumPiece> sums;
    // The rows of b of one piece stay in a cache while the rows of the range pass by.
    for (std::int64_t col = 0; col < b.rows; col += kSumPiece) {
      const std::int64_t n = std::min(kSumPiece, b.rows - col);
      for (std::int64_t m = begin; m < end; ++m) {
        for (std::int64_t c = 0; c < n; ++c) sums[static_cast<std::size_t>(c)] = dot(a.row(m), b.row(col + c), a.cols);
        finish_sums(target, {m, col, /*rows=*/1, n}, sums.data(), CpuIsa::kPortable);
      }
    }
  });
}

}  // namespace

void finish_sums(const CodeMatmulTarget& target, const SumBlock& block, const std::int32_t* sums, CpuIsa isa) {
  if (target.sums.data != nullptr) {
    for (std::int64_t r = 0; r < block.rows; ++r)
      std::memcpy(target.sums.row(block.row + r) + block.col, sums + r * kSumPiece,
                  static_cast<std::size_t>(block.cols) * sizeof(std::int32_t));
    return;
  }
  IsaClones<finish_body>::pick(isa)({&target, block, sums});
}

void code_matmul_cpu(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                     const CodeMatmulTarget& target, CpuIsa isa) {
  if (a.rows == 0 || b.rows == 0) return;
#if QAT_X86_SIMD
  if (isa == CpuIsa::kAvx2) return code_matmul_avx2(exec, a, b, target);
#endif
  (void)isa;
  code_matmul_portable(exec, a, b, target);
}

}  // namespace qat::kernels
