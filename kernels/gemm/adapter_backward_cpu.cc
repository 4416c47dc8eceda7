// adapter_backward.h on a CPU: the specification. dh = g b row by row, db = scaling g^T (h x_scales) in order of rows.
#include "kernels/gemm/adapter_backward_cpu.h"

#include <algorithm>
#include <vector>

#include "kernels/common/shape_text.h"
#include "kernels/common/uniform_fill.h"
#include "kernels/quant/row_coder.h"

namespace qat::kernels {
namespace {

constexpr std::int64_t kGrainElems = 4096;

std::int64_t grain_of(std::int64_t elems_each) {
  return std::max<std::int64_t>(1, kGrainElems / std::max<std::int64_t>(1, elems_each));
}

const float* row_of(const ConstFloatMatrix& m, std::int64_t r) {
  return static_cast<const float*>(m.data) + r * m.stride;
}

// to += factor * values
void add_scaled(float factor, const float* values, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += factor * values[i];
}

// dh = g b, where each part of g meets its own rows of b.
void hidden_gradient(const Exec& exec, const GradientColumns& g, Matrix<const float> b, Matrix<float> dh) {
  exec.for_ranges(dh.rows, grain_of(b.rows), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      std::fill_n(dh.row(m), dh.cols, 0.0F);
      std::int64_t n = 0;
      for (int p = 0; p < g.count; ++p) {
        const ConstFloatMatrix& part = g.parts[static_cast<std::size_t>(p)];
        const float* row = row_of(part, m);
        for (std::int64_t c = 0; c < part.cols; ++c, ++n) add_scaled(row[c], b.row(n), dh.cols, dh.row(m));
      }
    }
  });
}

// db = scaling g^T h for the rows of db that one part of g decides.
void weight_gradient(const Exec& exec, const ConstFloatMatrix& part, Matrix<const float> h, float scaling,
                     Matrix<float> db) {
  exec.for_ranges(part.cols, grain_of(part.rows), [&](std::int64_t begin, std::int64_t end) {
    std::fill(db.row(begin), db.row(end), 0.0F);
    for (std::int64_t m = 0; m < part.rows; ++m) {
      const float* row = row_of(part, m);
      for (std::int64_t n = begin; n < end; ++n) add_scaled(row[n], h.row(m), h.cols, db.row(n));
    }
    std::transform(db.row(begin), db.row(end), db.row(begin), [scaling](float sum) { return sum * scaling; });
  });
}

std::vector<float> with_row_scales(Matrix<const float> h, std::span<const float> scales) {
  std::vector<float> scaled(h.data, h.data + h.size());
  for (std::int64_t i = 0; i < h.size(); ++i)
    scaled[static_cast<std::size_t>(i)] *= scales[static_cast<std::size_t>(i / h.cols)];
  return scaled;
}

void round_rows(const Exec& exec, const EncodeOptions& options, Matrix<float> values) {
  std::vector<std::int8_t> codes(static_cast<std::size_t>(values.size()));
  std::vector<float> scales(static_cast<std::size_t>(values.rows));
  const Matrix<std::int8_t> to{codes.data(), values.rows, values.cols};
  encode_rows(exec, values, options, {to, {}}, scales);
  decode_rows(exec, to, scales, values);
}

// The codes of one part of row m of g: its columns are first ... of all.
void code_row_of_part(const ConstFloatMatrix& part, std::int64_t m, float row_factor, std::int64_t first,
                      std::span<const float> inverses, const AdapterColumns& columns) {
  const Matrix<std::int8_t>& to = columns.codes_transposed;
  const auto n = static_cast<std::size_t>(part.cols);
  const bool stochastic = columns.options.rounding == Rounding::kStochastic;
  std::vector<float> draws(stochastic ? n : 0);
  fill_rounding_uniform(columns.options.key, static_cast<std::uint64_t>(m * to.rows + first), draws);
  std::vector<std::int8_t> codes(n);
  code_row({row_of(part, m), part.cols, row_factor, nullptr},
           {inverses.data() + first, /*per_column=*/true, stochastic ? draws.data() : nullptr,
            static_cast<float>(columns.options.width.q_max())},
           codes.data(), best_cpu_isa());
  for (std::size_t c = 0; c < n; ++c) to.at(first + static_cast<std::int64_t>(c), m) = codes[c];
}

void code_columns(const Exec& exec, const GradientColumns& g, std::span<const float> row_factors,
                  const AdapterColumns& columns) {
  std::vector<float> inverses(columns.scales.size());
  std::transform(columns.scales.begin(), columns.scales.end(), inverses.begin(), [](float s) { return 1.0F / s; });
  exec.for_ranges(g.parts[0].rows, grain_of(length(columns.scales)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      std::int64_t first = 0;
      for (int p = 0; p < g.count; ++p) {
        const ConstFloatMatrix& part = g.parts[static_cast<std::size_t>(p)];
        code_row_of_part(part, m, row_factors[static_cast<std::size_t>(m)], first, inverses, columns);
        first += part.cols;
      }
    }
  });
}

}  // namespace

void adapter_backward_cpu(const Exec& exec, const GradientColumns& g, const AdapterBackwardOperands& operands,
                          const AdapterBackwardOptions& options, const AdapterGradients& out,
                          const AdapterColumns& columns) {
  if (!columns.codes_transposed.empty()) code_columns(exec, g, operands.x_scales, columns);
  const Matrix<const float> b = require_fp32(operands.b), h = require_fp32(operands.h);
  const std::vector<float> scaled_h = with_row_scales(h, operands.x_scales);
  std::int64_t first = 0;
  for (int p = 0; p < g.count; ++p) {
    const ConstFloatMatrix& part = g.parts[static_cast<std::size_t>(p)];
    weight_gradient(exec, part, {scaled_h.data(), h.rows, h.cols}, operands.scaling,
                    {out.db.row(first), part.cols, h.cols});
    first += part.cols;
  }
  if (!options.db.width.is_full()) round_rows(exec, options.db, out.db);

  std::vector<float> dh(static_cast<std::size_t>(h.size())), scales(static_cast<std::size_t>(h.rows));
  std::vector<std::int8_t> codes(static_cast<std::size_t>(h.size()));
  const Matrix<float> hidden{dh.data(), h.rows, h.cols};
  const Matrix<std::int8_t> row_codes{codes.data(), h.rows, h.cols};
  hidden_gradient(exec, g, b, hidden);
  encode_gradient(exec, {{ConstFloatMatrix(hidden), {}, {}}, 1},
                  {operands.a_scales, operands.x_scales, options.rows, options.cols},
                  {row_codes, scales, out.dh_cols_transposed, out.dh_col_scales, {}});
  std::transform(scales.begin(), scales.end(), operands.g_row_scales.begin(), scales.begin(),
                 [](float own, float of_g) { return own / of_g; });
  decode_rows(exec, row_codes, scales, out.dx_term);
}

}  // namespace qat::kernels
