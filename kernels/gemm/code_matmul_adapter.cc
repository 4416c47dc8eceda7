#include "kernels/gemm/code_matmul_adapter.h"

#include <vector>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/gemm/code_matmul_adapter_cuda.h"

namespace qat::kernels {
namespace {

float scale_at(std::span<const float> scales, std::int64_t i) {
  return scales[scales.size() == 1 ? 0 : static_cast<std::size_t>(i)];
}

// The specification.
void code_matmul_adapter_cpu(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                             const CodeMatmulEpilogue& epilogue, const AdapterTerm& adapter, Matrix<float> y) {
  std::vector<std::int32_t> sums(static_cast<std::size_t>(y.size()));
  code_matmul_sums(exec, a, b, {sums.data(), y.rows, y.cols});
  const Matrix<const float> h = require_fp32(adapter.h), t = require_fp32(adapter.t);
  for (std::int64_t m = 0; m < y.rows; ++m) {
    for (std::int64_t n = 0; n < y.cols; ++n) {
      float value = static_cast<float>(sums[static_cast<std::size_t>(m * y.cols + n)]);
      for (std::int64_t r = 0; r < h.cols; ++r) value += h.at(m, r) * t.at(n, r);
      value *= scale_at(epilogue.row_scales, m) * scale_at(epilogue.col_scales, n);
      y.at(m, n) = epilogue.bias.empty() ? value : value + epilogue.bias[static_cast<std::size_t>(n)];
    }
  }
}

}  // namespace

bool takes_adapter(const Exec& exec, std::int64_t n, std::int64_t k, std::int64_t rank, DType out) {
  bool takes = out == DType::kFloat32;
  dispatch(
      exec, "takes_adapter", [] {}, [&] { takes = takes_adapter_cuda(n, k, rank, out); });
  return takes;
}

void code_matmul_adapter(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                         const CodeMatmulEpilogue& epilogue, const AdapterTerm& adapter, FloatMatrix y) {
  QAT_CHECK(a.cols == b.cols && y.rows == a.rows && y.cols == b.rows && y.is_dense(),
            "a is " + shape_text(a) + ", b is " + shape_text(b) + ", y is " + shape_text(y.rows, y.cols));
  QAT_CHECK(adapter.h.rows == a.rows && adapter.t.rows == b.rows && adapter.h.cols == adapter.t.cols,
            "the adapter's operands are " + shape_text(adapter.h.rows, adapter.h.cols) + " and " +
                shape_text(adapter.t.rows, adapter.t.cols));
  QAT_CHECK(!epilogue.accumulate, "a product with an adapter overwrites y");
  dispatch(
      exec, "code_matmul_adapter", [&] { code_matmul_adapter_cpu(exec, a, b, epilogue, adapter, require_fp32(y)); },
      [&] { code_matmul_adapter_cuda(exec, a, b, epilogue, adapter, y); });
}

}  // namespace qat::kernels
