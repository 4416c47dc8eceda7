#include "kernels/quant/fake_quant.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/quant/fake_quant_cpu.h"
#include "kernels/quant/fake_quant_cuda.h"

namespace qat::kernels {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

void check_output(const Matrix<const float>& x, const Matrix<float>& y, BitWidth width) {
  QAT_CHECK(y.rows == x.rows && y.cols == x.cols, "y is " + shape_text(y) + " for x of " + shape_text(x));
  QAT_CHECK(!width.is_full(), "32 bits means unquantized: the caller passes x on instead");
}

void check_params(const char* name, const Matrix<const float>& x, Axis axis, std::span<const float> params) {
  QAT_CHECK(length(params) == groups_of(x, axis), std::to_string(params.size()) + " " + name + " for " +
                                                      std::to_string(groups_of(x, axis)) + " groups of x " +
                                                      shape_text(x));
}

void check_ranges(std::span<const float> lo, std::span<const float> hi, std::span<float> out, BitWidth width) {
  QAT_CHECK(lo.size() == hi.size() && lo.size() == out.size(), std::to_string(out.size()) + " results for ranges of " +
                                                                   std::to_string(lo.size()) + " minima and " +
                                                                   std::to_string(hi.size()) + " maxima");
  QAT_CHECK(!width.is_full(), "32 bits means unquantized: there is no scale");
}

}  // namespace

AffineParams symmetric_params(float lo, float hi, BitWidth width, float floor) {
  if (std::isnan(lo) || std::isnan(hi)) return {kNaN, kNaN};
  const float largest = std::max(std::max(std::fabs(lo), std::fabs(hi)), floor);
  return {largest / static_cast<float>(width.q_max()), 0.0F};
}

AffineParams affine_params(float lo, float hi, BitWidth width, float floor) {
  if (std::isnan(lo) || std::isnan(hi)) return {kNaN, kNaN};
  const float from = std::min(lo, 0.0F), to = std::max(hi, 0.0F);
  const float scale = std::max(to - from, floor) / static_cast<float>(width.level_max());
  return {scale, std::nearbyint((0.0F - from) / scale)};
}

void symmetric_scales(const Exec& exec, std::span<const float> lo, std::span<const float> hi, BitWidth width,
                      float floor, std::span<float> scales) {
  check_ranges(lo, hi, scales, width);
  const auto cpu = [&] {
    for (std::size_t g = 0; g < scales.size(); ++g) scales[g] = symmetric_params(lo[g], hi[g], width, floor).scale;
  };
  dispatch(exec, "symmetric_scales", cpu, [&] { symmetric_scales_cuda(exec, lo, hi, width, floor, scales); });
}

void affine_scales(const Exec& exec, std::span<const float> lo, std::span<const float> hi, BitWidth width,
                   std::span<float> scales, std::span<float> zero_points) {
  check_ranges(lo, hi, scales, width);
  check_ranges(lo, hi, zero_points, width);
  const auto cpu = [&] {
    for (std::size_t g = 0; g < scales.size(); ++g) {
      const AffineParams params = affine_params(lo[g], hi[g], width);
      scales[g] = params.scale;
      zero_points[g] = params.zero_point;
    }
  };
  dispatch(exec, "affine_scales", cpu, [&] { affine_scales_cuda(exec, lo, hi, width, scales, zero_points); });
}

void fake_quant_symmetric(const Exec& exec, Matrix<const float> x, Axis axis, std::span<const float> scales,
                          const EncodeOptions& options, Matrix<float> y) {
  check_output(x, y, options.width);
  check_params("scales", x, axis, scales);
  const float q_max = static_cast<float>(options.width.q_max());
  const UniformGrid grid{scales, {}, -q_max, q_max, options.rounding == Rounding::kStochastic, options.key};
  dispatch(
      exec, "fake_quant_symmetric", [&] { fake_quant_uniform_cpu(exec, x, axis, grid, y, best_cpu_isa()); },
      [&] { fake_quant_uniform_cuda(exec, x, axis, grid, y); });
}

void fake_quant_affine(const Exec& exec, Matrix<const float> x, Axis axis, std::span<const float> scales,
                       std::span<const float> zero_points, BitWidth width, Matrix<float> y) {
  check_output(x, y, width);
  check_params("scales", x, axis, scales);
  check_params("zero-points", x, axis, zero_points);
  const UniformGrid grid{scales, zero_points, 0.0F, static_cast<float>(width.level_max()), /*stochastic=*/false, {}};
  dispatch(
      exec, "fake_quant_affine", [&] { fake_quant_uniform_cpu(exec, x, axis, grid, y, best_cpu_isa()); },
      [&] { fake_quant_uniform_cuda(exec, x, axis, grid, y); });
}

void fake_quant_log(const Exec& exec, Matrix<const float> x, Axis axis, std::span<const float> log_mins,
                    std::span<const float> log_ranges, BitWidth width, LogCodebook codebook, Matrix<float> y) {
  check_output(x, y, width);
  check_params("log minima", x, axis, log_mins);
  check_params("log ranges", x, axis, log_ranges);
  const LogGrid grid{log_mins, log_ranges, width, codebook};
  dispatch(
      exec, "fake_quant_log", [&] { fake_quant_log_cpu(exec, x, axis, grid, y); },
      [&] { fake_quant_log_cuda(exec, x, axis, grid, y); });
}

}  // namespace qat::kernels
