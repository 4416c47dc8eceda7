#include "kernels/quant/encode_gradient.h"

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/quant/encode_gradient_cpu.h"
#include "kernels/quant/encode_gradient_cuda.h"

namespace qat::kernels {
namespace {

struct Shape {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};

Shape check_parts(const Exec& exec, const GradientColumns& g) {
  QAT_CHECK(g.count >= 1 && g.count <= 3, std::to_string(g.count) + " parts of a gradient (1 to 3)");
  const ConstFloatMatrix& first = g.parts[0];
  QAT_CHECK(first.dtype == DType::kFloat32 || (exec.device == Device::kCuda && first.dtype == DType::kBFloat16),
            "gradients are fp32, and on a GPU also bf16");
  Shape shape{first.rows, 0};
  for (int p = 0; p < g.count; ++p) {
    const ConstFloatMatrix& part = g.parts[static_cast<std::size_t>(p)];
    QAT_CHECK(part.rows == first.rows && part.dtype == first.dtype,
              "part " + std::to_string(p) + " is " + shape_text(part.rows, part.cols) + " beside one of " +
                  shape_text(first.rows, first.cols) + ", or of another dtype");
    QAT_CHECK(part.stride >= part.cols || part.rows <= 1, "rows of part " + std::to_string(p) + " overlap");
    shape.cols += part.cols;
  }
  return shape;
}

void check_options(const EncodeOptions& options) {
  QAT_CHECK(!options.width.is_full() && options.width.bits() <= 8,
            "int8 codes hold widths 2..8, not " + std::to_string(options.width.bits()));
  QAT_CHECK(is_floor(options), "a scale must be positive, so the floor of its range must be, and a normal number");
}

void check_length(const char* name, std::int64_t got, std::int64_t want, const Shape& g) {
  QAT_CHECK(got == want, std::to_string(got) + " " + name + " for g of " + shape_text(g.rows, g.cols));
}

void check_encoding(const Shape& g, const GradientEncoding& encoding, const GradientCodes& out) {
  if (!encoding.col_factors.empty()) check_length("column factors", length(encoding.col_factors), g.cols, g);
  if (!encoding.row_factors.empty()) check_length("row factors", length(encoding.row_factors), g.rows, g);
  if (!out.rows.empty()) {
    QAT_CHECK(out.rows.rows == g.rows && out.rows.cols == g.cols,
              "row codes are " + shape_text(out.rows) + " for g of " + shape_text(g.rows, g.cols));
    check_length("row scales", length(out.row_scales), g.rows, g);
    check_options(encoding.row_options);
  }
  if (!out.cols_transposed.empty())
    QAT_CHECK(
        out.cols_transposed.rows == g.cols && out.cols_transposed.cols == g.rows,
        "transposed column codes are " + shape_text(out.cols_transposed) + " for g of " + shape_text(g.rows, g.cols));
  if (!out.cols_transposed.empty() || !out.col_scales.empty()) {
    check_length("column scales", length(out.col_scales), g.cols, g);
    check_options(encoding.col_options);
  }
  if (!out.column_sums.empty()) check_length("column sums", length(out.column_sums), g.cols, g);
}

void check_like(const char* name, const ConstFloatMatrix& m, const ConstFloatMatrix& g) {
  QAT_CHECK(m.rows == g.rows && m.cols == g.cols && m.dtype == g.dtype && (m.is_dense() || m.rows <= 1),
            std::string(name) + " is " + shape_text(m.rows, m.cols) + " for g of " + shape_text(g.rows, g.cols) +
                ", or has gaps or another dtype");
}

}  // namespace

void encode_gradient(const Exec& exec, const GradientColumns& g, const GradientEncoding& encoding,
                     const GradientCodes& out) {
  check_encoding(check_parts(exec, g), encoding, out);
  dispatch(
      exec, "encode_gradient", [&] { encode_gradient_cpu(exec, g, encoding, out); },
      [&] { encode_gradient_cuda(exec, g, encoding, out); });
}

void encode_gelu_gradient(const Exec& exec, ConstFloatMatrix dy, ConstFloatMatrix x, FloatMatrix g,
                          const GradientEncoding& encoding, const GradientCodes& out) {
  const GradientColumns columns{{ConstFloatMatrix(g), {}, {}}, 1};
  check_encoding(check_parts(exec, columns), encoding, out);
  check_like("dy", dy, g);
  check_like("x", x, g);
  check_like("g", g, g);
  dispatch(
      exec, "encode_gelu_gradient", [&] { encode_gelu_gradient_cpu(exec, dy, x, g, encoding, out); },
      [&] { encode_gelu_gradient_cuda(exec, dy, x, g, encoding, out); });
}

void column_sums(const Exec& exec, const GradientColumns& g, std::span<float> sums) {
  const Shape shape = check_parts(exec, g);
  check_length("column sums", length(sums), shape.cols, shape);
  dispatch(
      exec, "column_sums", [&] { column_sums_cpu(exec, g, sums); }, [&] { column_sums_cuda(exec, g, sums); });
}

}  // namespace qat::kernels
