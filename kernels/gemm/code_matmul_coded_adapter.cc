#include "kernels/gemm/code_matmul_coded_adapter.h"

#include <iterator>
#include <vector>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/gemm/code_matmul_coded_adapter_cuda.h"

namespace qat::kernels {
namespace {

// The specification.
void code_matmul_coded_adapter_cpu(const Exec& exec, Matrix<const std::int8_t> x, Matrix<const std::int8_t> b,
                                   const CodeMatmulEpilogue& epilogue, const CodedAdapter& adapter, Matrix<float> y) {
  std::vector<float> h(static_cast<std::size_t>(x.rows * adapter.a.rows));
  const float one = 1.0F;
  code_matmul(exec, x, adapter.a, {.row_scales = {&one, 1}, .col_scales = adapter.a_scales},
              Matrix<float>{h.data(), x.rows, adapter.a.rows});
  const Matrix<const float> term{h.data(), x.rows, adapter.a.rows};
  code_matmul_adapter(exec, x, b, epilogue, {.h = term, .t = adapter.t}, y);
}

}  // namespace

bool takes_coded_adapter(const Exec& exec, std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t rank,
                         DType out) {
  bool takes = out == DType::kFloat32;
  dispatch(
      exec, "takes_coded_adapter", [] {}, [&] { takes = takes_coded_adapter_cuda(m, n, k, rank, out); });
  return takes;
}

std::int64_t coded_adapter_scratch(const Exec& exec, std::int64_t m, std::int64_t n, std::int64_t k,
                                   std::int64_t rank) {
  std::int64_t elems = 0;
  dispatch(
      exec, "coded_adapter_scratch", [] {}, [&] { elems = coded_adapter_scratch_cuda(m, n, k, rank); });
  return elems;
}

void code_matmul_coded_adapter(const Exec& exec, Matrix<const std::int8_t> x, Matrix<const std::int8_t> b,
                               const CodeMatmulEpilogue& epilogue, const CodedAdapter& adapter, FloatMatrix y,
                               std::span<std::int32_t> scratch) {
  QAT_CHECK(x.cols == b.cols && y.rows == x.rows && y.cols == b.rows && y.is_dense(),
            "x is " + shape_text(x) + ", b is " + shape_text(b) + ", y is " + shape_text(y.rows, y.cols));
  QAT_CHECK(
      adapter.a.cols == x.cols && adapter.t.rows == b.rows && adapter.a.rows == adapter.t.cols,
      "the adapter's operands are " + shape_text(adapter.a) + " and " + shape_text(adapter.t.rows, adapter.t.cols));
  QAT_CHECK(std::ssize(adapter.a_scales) == 1 || std::ssize(adapter.a_scales) == adapter.a.rows,
            "one scale of the adapter's codes, or one a row");
  QAT_CHECK(!epilogue.accumulate, "a product with an adapter overwrites y");
  QAT_CHECK(std::ssize(scratch) >= coded_adapter_scratch(exec, x.rows, b.rows, x.cols, adapter.a.rows),
            "working memory is too short");
  dispatch(
      exec, "code_matmul_coded_adapter",
      [&] { code_matmul_coded_adapter_cpu(exec, x, b, epilogue, adapter, require_fp32(y)); },
      [&] { code_matmul_coded_adapter_cuda(exec, x, b, epilogue, adapter, y, scratch.data()); });
}

}  // namespace qat::kernels
