#include "kernels/gemm/code_matmul.h"

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/gemm/code_matmul_cpu.h"
#include "kernels/gemm/code_matmul_cuda.h"

namespace qat::kernels {
namespace {

void check_operands(const Matrix<const std::int8_t>& a, const Matrix<const std::int8_t>& b, std::int64_t out_rows,
                    std::int64_t out_cols) {
  QAT_CHECK(a.cols == b.cols,
            "a is " + shape_text(a) + " and b is " + shape_text(b) + ": the summed dimensions differ");
  QAT_CHECK(out_rows == a.rows && out_cols == b.rows, "the output is " + shape_text(out_rows, out_cols) + " for a of " +
                                                          shape_text(a) + " and b of " + shape_text(b));
  QAT_CHECK(a.cols <= kMaxCodeDepth, "a sum of " + std::to_string(a.cols) + " products may leave int32");
}

void check_scales(const char* name, std::span<const float> scales, std::int64_t count) {
  QAT_CHECK(length(scales) == 1 || length(scales) == count,
            std::to_string(scales.size()) + " " + name + " for " + std::to_string(count) + " (1 or as many)");
}

}  // namespace

void code_matmul(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                 const CodeMatmulEpilogue& epilogue, const FloatMatrix& y) {
  check_operands(a, b, y.rows, y.cols);
  check_scales("row scales", epilogue.row_scales, a.rows);
  check_scales("column scales", epilogue.col_scales, b.rows);
  QAT_CHECK(epilogue.bias.empty() || length(epilogue.bias) == b.rows,
            std::to_string(epilogue.bias.size()) + " biases for " + std::to_string(b.rows) + " columns");
  QAT_CHECK(y.dtype == DType::kFloat32 || y.dtype == DType::kBFloat16, "y is neither fp32 nor bf16");
  QAT_CHECK(y.rows <= 1 || y.stride >= y.cols,
            "rows of " + std::to_string(y.cols) + " elements overlap " + std::to_string(y.stride) + " apart");
  dispatch(
      exec, "code_matmul",
      [&] { code_matmul_cpu(exec, a, b, {.sums = {}, .y = require_fp32(y), .epilogue = epilogue}, best_cpu_isa()); },
      [&] { code_matmul_cuda(exec, a, b, epilogue, y); });
}

void code_matmul_sums(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                      Matrix<std::int32_t> sums) {
  check_operands(a, b, sums.rows, sums.cols);
  dispatch(
      exec, "code_matmul_sums",
      [&] { code_matmul_cpu(exec, a, b, {.sums = sums, .y = {}, .epilogue = {}}, best_cpu_isa()); },
      [&] { code_matmul_sums_cuda(exec, a, b, sums); });
}

}  // namespace qat::kernels
