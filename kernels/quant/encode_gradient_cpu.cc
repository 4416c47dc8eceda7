#include "kernels/quant/encode_gradient_cpu.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/common/error.h"

namespace qat::kernels {
namespace {

constexpr std::int64_t kGrainElems = 4096;
constexpr std::int64_t kColumnGrain = 64;
constexpr std::int64_t kSumRows =
    128;  // summed one by one; then these sums are: rounding errors grow with both lengths

std::int64_t grain_rows(std::int64_t cols) {
  return std::max<std::int64_t>(1, kGrainElems / std::max<std::int64_t>(1, cols));
}

// The parts side by side, dense; the first part itself where it is that already.
class DenseGradient {
 public:
  DenseGradient(const Exec& exec, const GradientColumns& g) {
    const ConstFloatMatrix& first = g.parts[0];
    if (g.count == 1 && (first.is_dense() || first.rows <= 1)) {
      view_ = require_fp32(first);
      return;
    }
    std::int64_t cols = 0;
    for (int p = 0; p < g.count; ++p) cols += g.parts[static_cast<std::size_t>(p)].cols;
    values_.resize(static_cast<std::size_t>(first.rows * cols));
    view_ = {values_.data(), first.rows, cols};
    exec.for_ranges(first.rows, grain_rows(cols), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        float* to = values_.data() + r * cols;
        for (int p = 0; p < g.count; ++p) {
          const ConstFloatMatrix& part = g.parts[static_cast<std::size_t>(p)];
          const float* from = static_cast<const float*>(part.data) + r * part.stride;
          to = std::copy(from, from + part.cols, to);
        }
      }
    });
  }
  Matrix<const float> view() const { return view_; }

 private:
  std::vector<float> values_;
  Matrix<const float> view_;
};

void sum_columns(const Exec& exec, Matrix<const float> g, std::span<float> sums) {
  exec.for_ranges(g.cols, kColumnGrain, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> block(static_cast<std::size_t>(end - begin));
    std::fill(sums.begin() + begin, sums.begin() + end, 0.0F);
    for (std::int64_t first = 0; first < g.rows; first += kSumRows) {
      std::fill(block.begin(), block.end(), 0.0F);
      for (std::int64_t r = first; r < std::min(first + kSumRows, g.rows); ++r)
        for (std::int64_t c = begin; c < end; ++c) block[static_cast<std::size_t>(c - begin)] += g.at(r, c);
      for (std::int64_t c = begin; c < end; ++c)
        sums[static_cast<std::size_t>(c)] += block[static_cast<std::size_t>(c - begin)];
    }
  });
}

void encode_columns(const Exec& exec, Matrix<const float> g, const GradientEncoding& encoding,
                    const GradientCodes& out) {
  if (out.col_scales.empty()) return;
  std::vector<std::int8_t> unwanted(out.cols_transposed.empty() ? static_cast<std::size_t>(g.size()) : 0);
  const Matrix<std::int8_t> codes =
      out.cols_transposed.empty() ? Matrix<std::int8_t>{unwanted.data(), g.cols, g.rows} : out.cols_transposed;
  encode_scaled_cols(exec, g, {encoding.row_factors, {}}, encoding.col_options, {{}, codes}, out.col_scales);
}

void encode_dense(const Exec& exec, Matrix<const float> g, const GradientEncoding& encoding, const GradientCodes& out) {
  if (!out.rows.empty())
    encode_scaled_rows(exec, g, {{}, encoding.col_factors}, encoding.row_options, {out.rows, {}}, out.row_scales);
  encode_columns(exec, g, encoding, out);
  if (!out.column_sums.empty()) sum_columns(exec, g, out.column_sums);
}

// gelu'(x) = 1/2 (1 + t) + 1/2 x (1 - t^2) u',  t = tanh(u),  u = sqrt(2/pi) (x + 0.044715 x^3)
float gelu_slope(float x) {
  constexpr float kRoot = 0.7978845608F, kCubic = 0.044715F;
  const float square = x * x;
  const float t = std::tanh(kRoot * (x + kCubic * x * square));
  if (std::fabs(x) > 20.0F) return 0.5F * (1.0F + t);  // the rest is nothing, and x^2 may overflow: infinity times 0
  return 0.5F * (1.0F + t) + 0.5F * x * (1.0F - t * t) * (kRoot * (1.0F + 3.0F * kCubic * square));
}

}  // namespace

void encode_gradient_cpu(const Exec& exec, const GradientColumns& g, const GradientEncoding& encoding,
                         const GradientCodes& out) {
  encode_dense(exec, DenseGradient(exec, g).view(), encoding, out);
}

void encode_gelu_gradient_cpu(const Exec& exec, ConstFloatMatrix dy, ConstFloatMatrix x, FloatMatrix g,
                              const GradientEncoding& encoding, const GradientCodes& out) {
  const Matrix<const float> slopes_of = require_fp32(x), from = require_fp32(dy);
  const Matrix<float> to = require_fp32(g);
  exec.for_ranges(to.size(), kGrainElems, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) to.data[i] = from.data[i] * gelu_slope(slopes_of.data[i]);
  });
  encode_dense(exec, to, encoding, out);
}

void column_sums_cpu(const Exec& exec, const GradientColumns& g, std::span<float> sums) {
  sum_columns(exec, DenseGradient(exec, g).view(), sums);
}

}  // namespace qat::kernels
