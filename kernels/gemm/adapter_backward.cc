#include "kernels/gemm/adapter_backward.h"

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/gemm/adapter_backward_cpu.h"
#include "kernels/gemm/adapter_backward_cuda.h"

namespace qat::kernels {
namespace {

struct Shape {
  std::int64_t rows = 0;  // M
  std::int64_t cols = 0;  // N
  std::int64_t rank = 0;
};

Shape check_gradient(const GradientColumns& g, std::int64_t rank) {
  QAT_CHECK(g.count >= 1 && g.count <= 3, std::to_string(g.count) + " parts of a gradient (1 to 3)");
  const ConstFloatMatrix& first = g.parts[0];
  Shape shape{first.rows, 0, rank};
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

std::string for_shape(const Shape& s) {
  return " for g of " + shape_text(s.rows, s.cols) + " and rank " + std::to_string(s.rank);
}

template <typename Values>
void check_matrix(const char* name, const Values& m, std::int64_t rows, DType dtype, const Shape& s) {
  QAT_CHECK(m.rows == rows && m.cols == s.rank && m.dtype == dtype && (m.is_dense() || m.rows <= 1),
            std::string(name) + " is " + shape_text(m.rows, m.cols) + for_shape(s) + ", or has gaps or another dtype");
}

void check_length(const char* name, std::int64_t got, std::int64_t want, const Shape& s) {
  QAT_CHECK(got == want, std::to_string(got) + " " + name + for_shape(s));
}

void check_width(const EncodeOptions& options) {
  QAT_CHECK(!options.width.is_full() && options.width.bits() <= 8,
            "int8 codes hold widths 2..8, not " + std::to_string(options.width.bits()));
  QAT_CHECK(options.amax_floor > 0.0F, "a scale must be positive, so the floor of its range must be");
}

void check_results(const Shape& s, DType dtype, const AdapterGradients& out) {
  QAT_CHECK(out.db.rows == s.cols && out.db.cols == s.rank, "db is " + shape_text(out.db) + for_shape(s));
  QAT_CHECK(out.dh_cols_transposed.rows == s.rank && out.dh_cols_transposed.cols == s.rows,
            "transposed column codes are " + shape_text(out.dh_cols_transposed) + for_shape(s));
  check_matrix("dx_term", out.dx_term, s.rows, dtype, s);
  check_length("column scales", length(out.dh_col_scales), s.rank, s);
}

void check_columns(const Shape& s, const AdapterColumns& columns) {
  const Matrix<std::int8_t>& codes = columns.codes_transposed;
  if (codes.empty()) return;
  QAT_CHECK(codes.rows == s.cols && codes.cols == s.rows,
            "transposed column codes of g are " + shape_text(codes) + for_shape(s));
  check_length("column scales of g", length(columns.scales), s.cols, s);
  check_width(columns.options);
}

}  // namespace

bool takes_adapter_backward(const Exec& exec, const GradientColumns& g, std::int64_t rank) {
  bool takes = g.parts[0].dtype == DType::kFloat32;
  dispatch(
      exec, "takes_adapter_backward", [] {}, [&] { takes = takes_adapter_backward_cuda(g, rank); });
  return takes;
}

void adapter_backward(const Exec& exec, const GradientColumns& g, const AdapterBackwardOperands& operands,
                      const AdapterBackwardOptions& options, const AdapterGradients& out,
                      const AdapterColumns& columns) {
  const Shape shape = check_gradient(g, operands.b.cols);
  const DType dtype = g.parts[0].dtype;
  check_matrix("b", operands.b, shape.cols, dtype, shape);
  check_matrix("h", operands.h, shape.rows, dtype, shape);
  check_length("scales of x", length(operands.x_scales), shape.rows, shape);
  check_length("scales of A", length(operands.a_scales), shape.rank, shape);
  check_length("row scales of g", length(operands.g_row_scales), shape.rows, shape);
  check_results(shape, dtype, out);
  check_width(options.rows);
  check_width(options.cols);
  if (!options.db.width.is_full()) check_width(options.db);
  check_columns(shape, columns);
  dispatch(
      exec, "adapter_backward", [&] { adapter_backward_cpu(exec, g, operands, options, out, columns); },
      [&] { adapter_backward_cuda(exec, g, operands, options, out, columns); });
}

}  // namespace qat::kernels
