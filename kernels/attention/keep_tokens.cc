#include "kernels/attention/keep_tokens.h"

#include <algorithm>
#include <string>

#include "kernels/attention/keep_tokens_cuda.h"
#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/quant/encode.h"

namespace qat::kernels {
namespace {

void keep_tokens_cpu(const Exec& exec, const ConstFloatMatrix& x, BitWidth width, std::span<const std::int64_t> rows,
                     Matrix<std::int8_t> codes, std::span<float> scales) {
  QAT_CHECK(x.dtype == DType::kFloat32, "CPUs compute in fp32");
  const std::int64_t half = x.cols / 2;
  for (std::int64_t b = 0; b < x.rows; ++b) {
    const std::int64_t row = rows[static_cast<std::size_t>(b)];
    QAT_CHECK(row >= 0 && row < codes.rows, "a token goes to one of the rows");
    for (std::int64_t h = 0; h < 2; ++h) {
      const auto* from = static_cast<const float*>(x.data) + b * x.stride + h * half;
      encode_rows(exec, Matrix<const float>{from, 1, half}, {.width = width},
                  {{codes.row(row) + h * half, 1, half}, {}}, scales.subspan(static_cast<std::size_t>(2 * row + h), 1));
    }
  }
}

void keep_floats_cpu(const ConstFloatMatrix& x, std::span<const std::int64_t> rows, const FloatMatrix& kept) {
  QAT_CHECK(x.dtype == DType::kFloat32, "CPUs compute in fp32");
  for (std::int64_t b = 0; b < x.rows; ++b) {
    const std::int64_t row = rows[static_cast<std::size_t>(b)];
    QAT_CHECK(row >= 0 && row < kept.rows, "a token goes to one of the rows");
    std::copy_n(static_cast<const float*>(x.data) + b * x.stride, x.cols,
                static_cast<float*>(kept.data) + row * kept.stride);
  }
}

}  // namespace

void keep_tokens(const Exec& exec, ConstFloatMatrix x, BitWidth width, std::span<const std::int64_t> rows,
                 Matrix<std::int8_t> codes, std::span<float> scales) {
  QAT_CHECK(!width.is_full() && width.bits() >= BitWidth::kMinUsual && width.bits() <= 8,
            "int8 codes hold widths 2..8, not " + std::to_string(width.bits()));
  QAT_CHECK(x.cols % 2 == 0 && x.cols == codes.cols && length(rows) == x.rows,
            shape_text(x.rows, x.cols) + " keys and values and " + std::to_string(rows.size()) +
                " rows, for codes of " + shape_text(codes));
  QAT_CHECK(length(scales) == 2 * codes.rows,
            std::to_string(scales.size()) + " scales for " + std::to_string(codes.rows) + " tokens");
  if (x.size() == 0) return;
  dispatch(
      exec, "keep_tokens", [&] { keep_tokens_cpu(exec, x, width, rows, codes, scales); },
      [&] { keep_tokens_cuda(exec, x, width, rows, codes, scales); });
}

void keep_tokens(const Exec& exec, ConstFloatMatrix x, std::span<const std::int64_t> rows, FloatMatrix kept) {
  QAT_CHECK(x.cols == kept.cols && length(rows) == x.rows && kept.is_dense() && x.dtype == kept.dtype,
            shape_text(x.rows, x.cols) + " keys and values and " + std::to_string(rows.size()) + " rows, for " +
                shape_text(kept.rows, kept.cols) + " of their dtype");
  if (x.size() == 0) return;
  dispatch(
      exec, "keep_tokens", [&] { keep_floats_cpu(x, rows, kept); }, [&] { keep_floats_cuda(exec, x, rows, kept); });
}

}  // namespace qat::kernels
