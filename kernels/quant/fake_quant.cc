#include "kernels/quant/fake_quant.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/quant/fake_quant_cpu.h"

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

void fake_quant_symmetric(const Exec& exec, Matrix<const float> x, Axis axis, std::span<const float> scales,
                          const EncodeOptions& options, Matrix<float> y) {
  check_output(x, y, options.width);
  check_params("scales", x, axis, scales);
  const float q_max = static_cast<float>(options.width.q_max());
  const UniformGrid grid{scales, {}, -q_max, q_max, options.rounding == Rounding::kStochastic, options.key};
  dispatch(exec, "fake_quant_symmetric", [&] { fake_quant_uniform_cpu(exec, x, axis, grid, y, best_cpu_isa()); });
}

void fake_quant_affine(const Exec& exec, Matrix<const float> x, Axis axis, std::span<const float> scales,
                       std::span<const float> zero_points, BitWidth width, Matrix<float> y) {
  check_output(x, y, width);
  check_params("scales", x, axis, scales);
  check_params("zero-points", x, axis, zero_points);
  const UniformGrid grid{scales, zero_points, 0.0F, static_cast<float>(width.level_max()), /*stochastic=*/false, {}};
  dispatch(exec, "fake_quant_affine", [&] { fake_quant_uniform_cpu(exec, x, axis, grid, y, best_cpu_isa()); });
}

void fake_quant_log(const Exec& exec, Matrix<const float> x, Axis axis, std::span<const float> log_mins,
                    std::span<const float> log_ranges, BitWidth width, LogCodebook codebook, Matrix<float> y) {
  check_output(x, y, width);
  check_params("log minima", x, axis, log_mins);
  check_params("log ranges", x, axis, log_ranges);
  dispatch(exec, "fake_quant_log", [&] {
    fake_quant_log_cpu(exec, x, axis, {log_mins, log_ranges, width, codebook}, y);
  });
}

}  // namespace qat::kernels
