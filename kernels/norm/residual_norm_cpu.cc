#include "kernels/norm/residual_norm_cpu.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/common/scratch.h"

namespace qat::kernels {
namespace {

constexpr std::int64_t kRowGrain = 16;
constexpr std::int64_t kColumnGrain = 64;

// Sum of term(c): 16 partial sums, which compilers turn into vectors and which round less than one long chain.
template <typename Term>
float lane_sum(std::int64_t n, const Term& term) {
  constexpr std::int64_t kLanes = 16;
  std::array<float, kLanes> lanes{};
  std::int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes)
    for (std::int64_t i = 0; i < kLanes; ++i) lanes[static_cast<std::size_t>(i)] += term(c + i);
  for (; c < n; ++c) lanes[0] += term(c);
  for (std::size_t width = kLanes / 2; width > 0; width /= 2)
    for (std::size_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

struct Statistics {
  float mean, rstd;
};

Statistics statistics(const float* r, std::int64_t n, float eps) {
  const float count = static_cast<float>(n);
  const float mean = lane_sum(n, [&](std::int64_t c) { return r[c]; }) / count;
  const float variance = lane_sum(n, [&](std::int64_t c) { return (r[c] - mean) * (r[c] - mean); }) / count;
  return {mean, 1.0F / std::sqrt(variance + eps)};
}

}  // namespace

void residual_norm_cpu(const Exec& exec, ConstFloatMatrix x_any, ConstFloatMatrix delta_any,
                       const NormParameters& parameters, const EncodeOptions& options, const ResidualNormOut& out) {
  const Matrix<const float> x = require_fp32(x_any);
  const Matrix<const float> delta = require_fp32(delta_any);
  const Matrix<float> residual = require_fp32(out.residual);
  const Matrix<float> normed = require_fp32(out.normed);
  const bool wants_codes = !out.codes.codes.empty() || !out.codes.codes_transposed.empty();
  // The codes are taken from a whole matrix, in one call that orders its own work.
  Scratch<float> unwanted(normed.empty() ? x.size() : 0);
  const Matrix<float> y = normed.empty() ? Matrix<float>{unwanted.get(), x.rows, x.cols} : normed;
  exec.for_ranges(x.rows, kRowGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float* r = x.row(row);
      if (!residual.empty()) {
        float* sum = residual.row(row);
        for (std::int64_t c = 0; c < x.cols; ++c) sum[c] = delta.empty() ? r[c] : r[c] + delta.at(row, c);
        r = sum;
      }
      const auto [mean, rstd] = statistics(r, x.cols, parameters.eps);
      out.mean[static_cast<std::size_t>(row)] = mean;
      out.rstd[static_cast<std::size_t>(row)] = rstd;
      const float* weight = parameters.weight.data();
      const float* bias = parameters.bias.data();
      float* to = y.row(row);
      for (std::int64_t c = 0; c < x.cols; ++c) to[c] = (r[c] - mean) * rstd * weight[c] + bias[c];
    }
  });
  if (wants_codes) encode_rows(exec, Matrix<const float>(y), options, out.codes, out.code_scales);
}

void residual_norm_backward_cpu(const Exec& exec, ConstFloatMatrix dy_any, const ResidualNormSaved& saved,
                                ConstFloatMatrix dresidual_in, FloatMatrix dresidual, std::span<float> dweight,
                                std::span<float> dbias) {
  const Matrix<const float> dy = require_fp32(dy_any);
  const Matrix<const float> residual = require_fp32(saved.residual);
  const Matrix<const float> past = require_fp32(dresidual_in);
  const Matrix<float> dx = require_fp32(dresidual);
  const std::int64_t cols = dy.cols;
  const float* weight = saved.weight.data();
  const auto count = static_cast<float>(cols);
  if (!dweight.empty()) {
    exec.for_ranges(cols, kColumnGrain, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t n = end - begin;
      Scratch<double> sums(2 * n);
      std::fill_n(sums.get(), 2 * n, 0.0);
      for (std::int64_t row = 0; row < dy.rows; ++row) {
        const float mean = saved.mean[static_cast<std::size_t>(row)];
        const float rstd = saved.rstd[static_cast<std::size_t>(row)];
        const float* g = dy.row(row) + begin;
        const float* r = residual.row(row) + begin;
        for (std::int64_t c = 0; c < n; ++c) {
          sums.get()[c] += static_cast<double>(g[c] * ((r[c] - mean) * rstd));
          sums.get()[n + c] += static_cast<double>(g[c]);
        }
      }
      for (std::int64_t c = 0; c < n; ++c) {
        dweight[static_cast<std::size_t>(begin + c)] = static_cast<float>(sums.get()[c]);
        dbias[static_cast<std::size_t>(begin + c)] = static_cast<float>(sums.get()[n + c]);
      }
    });
  }
  exec.for_ranges(dy.rows, kRowGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float mean = saved.mean[static_cast<std::size_t>(row)];
      const float rstd = saved.rstd[static_cast<std::size_t>(row)];
      const float* g = dy.row(row);
      const float* r = residual.row(row);
      const auto scaled = [&](std::int64_t c) { return weight[c] * g[c]; };
      const auto hat = [&](std::int64_t c) { return (r[c] - mean) * rstd; };
      const float along_one = lane_sum(cols, scaled) / count;
      const float along_hat = lane_sum(cols, [&](std::int64_t c) { return scaled(c) * hat(c); }) / count;
      for (std::int64_t c = 0; c < cols; ++c) {
        const float through = rstd * (scaled(c) - along_one - hat(c) * along_hat);
        dx.at(row, c) = past.empty() ? through : through + past.at(row, c);
      }
    }
  });
}

}  // namespace qat::kernels
