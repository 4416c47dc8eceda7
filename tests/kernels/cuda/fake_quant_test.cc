// Fake quantization on a GPU against the CPU: bit for bit, except where logarithms enter.
#include "kernels/quant/fake_quant.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::DeviceBuffer;
using test::Grid;

using Shape = std::pair<std::int64_t, std::int64_t>;
const std::vector<Shape> kShapes = {{1, 1}, {3, 5}, {33, 17}, {64, 768}, {130, 2304}, {7, 4800}};
constexpr Axis kAxes[] = {Axis::kTensor, Axis::kRow, Axis::kCol};

std::string trace(const Grid<float>& x, Axis axis, int bits) {
  return std::to_string(x.rows) + " x " + std::to_string(x.cols) + ", axis " + std::to_string(static_cast<int>(axis)) +
         ", " + std::to_string(bits) + " bits";
}

Grid<float> data(const Shape& shape) {
  Grid<float> x = test::random_grid(shape.first, shape.second, 5);
  for (std::size_t i = 3; i < x.values.size(); i += 17) x.values[i] = i % 2 == 0 ? 0.0F : -0.0F;
  if (x.values.size() > 10) {
    x.values[4] = std::numeric_limits<float>::quiet_NaN();
    x.values[6] = std::numeric_limits<float>::infinity();
    x.values[8] = -std::numeric_limits<float>::infinity();
  }
  return x;
}

TEST(FakeQuantCuda, SymmetricEqualsTheCpu) {
  for (const Shape& shape : kShapes)
    for (const Axis axis : kAxes)
      for (const int bits : {2, 4, 8, 18})
        for (const Rounding rounding : {Rounding::kNearestEven, Rounding::kStochastic}) {
          const Grid<float> x = data(shape);
          SCOPED_TRACE(trace(x, axis, bits));
          std::vector<float> scales = test::random_factors(groups_of(x.view(), axis), 3);
          if (scales.size() > 2) scales[1] = std::numeric_limits<float>::quiet_NaN();
          const EncodeOptions options{.width = BitWidth(bits), .rounding = rounding, .key = {5, 6}};
          Grid<float> want(x.rows, x.cols);
          fake_quant_symmetric(Exec{}, x.view(), axis, scales, options, want.view());
          const DeviceBuffer<float> device_x(x.values), device_scales(scales), y(x.rows * x.cols);
          fake_quant_symmetric(test::cuda_exec(), device_x.matrix(x.rows, x.cols), axis, device_scales.span(), options,
                               y.matrix(x.rows, x.cols));
          EXPECT_TRUE(test::same_bits(y.download(), want.values));
          fake_quant_symmetric(test::cuda_exec(), device_x.matrix(x.rows, x.cols), axis, device_scales.span(), options,
                               device_x.matrix(x.rows, x.cols));
          EXPECT_TRUE(test::same_bits(device_x.download(), want.values)) << "in place";
        }
}

TEST(FakeQuantCuda, AffineEqualsTheCpu) {
  for (const Shape& shape : kShapes)
    for (const Axis axis : kAxes)
      for (const int bits : {2, 5, 8, 18}) {
        const Grid<float> x = data(shape);
        SCOPED_TRACE(trace(x, axis, bits));
        const std::vector<float> scales = test::random_factors(groups_of(x.view(), axis), 3);
        std::vector<float> zeros(scales.size());
        for (std::size_t g = 0; g < zeros.size(); ++g) zeros[g] = static_cast<float>(g % 4);
        Grid<float> want(x.rows, x.cols);
        fake_quant_affine(Exec{}, x.view(), axis, scales, zeros, BitWidth(bits), want.view());
        const DeviceBuffer<float> device_x(x.values), device_scales(scales), device_zeros(zeros), y(x.rows * x.cols);
        fake_quant_affine(test::cuda_exec(), device_x.matrix(x.rows, x.cols), axis, device_scales.span(),
                          device_zeros.span(), BitWidth(bits), y.matrix(x.rows, x.cols));
        EXPECT_TRUE(test::same_bits(y.download(), want.values));
      }
}

TEST(FakeQuantCuda, LogarithmsAreNearTheCpuAndCodesDifferOnlyAtBoundaries) {
  for (const Shape& shape : kShapes)
    for (const Axis axis : kAxes)
      for (const int bits : {2, 4, 8})
        for (const LogCodebook codebook : {LogCodebook::kSeed, LogCodebook::kPacked}) {
          const Grid<float> x = data(shape);
          SCOPED_TRACE(trace(x, axis, bits));
          const auto groups = static_cast<std::size_t>(groups_of(x.view(), axis));
          const std::vector<float> log_mins(groups, -9.0F), log_ranges(groups, 11.5F);
          Grid<float> want(x.rows, x.cols);
          fake_quant_log(Exec{}, x.view(), axis, log_mins, log_ranges, BitWidth(bits), codebook, want.view());
          const DeviceBuffer<float> device_x(x.values), mins(log_mins), ranges(log_ranges), y(x.rows * x.cols);
          fake_quant_log(test::cuda_exec(), device_x.matrix(x.rows, x.cols), axis, mins.span(), ranges.span(),
                         BitWidth(bits), codebook, y.matrix(x.rows, x.cols));
          const std::vector<float> got = y.download();
          // The exponent's distance from the boundary between codes, in steps, below which either is right.
          const double n = BitWidth(bits).q_max(), steps = codebook == LogCodebook::kSeed ? 2.0 * n : n - 1.0;
          for (std::size_t i = 0; i < got.size(); ++i) {
            const float a = got[i], b = want.values[i];
            if (std::isnan(a) && std::isnan(b)) continue;
            if (std::fabs(a - b) <= 4e-6F * std::fabs(b)) continue;
            const double t = (std::log2(std::fabs(static_cast<double>(x.values[i]))) + 9.0) / 11.5 * steps;
            const double to_boundary = std::fabs(t - std::floor(t) - 0.5);
            EXPECT_LT(to_boundary, 1e-5 * (1.0 + steps))
                << "element " << i << ", x " << x.values[i] << ": " << a << " instead of " << b;
          }
        }
}

TEST(FakeQuantCuda, ScalesOfRangesEqualTheCpu) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> lo{-1.0F, 0.0F, -3.0F, kNaN, 0.2F, -1e-9F, -0.7F}, hi{0.5F, 0.0F, 1e-3F, 1.0F, 7.0F, 1e-9F, kNaN};
  const std::vector<float> more = test::random_factors(1000, 8);
  for (std::size_t i = 0; i + 1 < more.size(); i += 2) {
    lo.push_back(-more[i]);
    hi.push_back(more[i + 1]);
  }
  const auto groups = static_cast<std::int64_t>(lo.size());
  const DeviceBuffer<float> device_lo(lo), device_hi(hi);
  for (const int bits : {2, 3, 8, 18}) {
    std::vector<float> symmetric(lo.size()), scales(lo.size()), zeros(lo.size());
    symmetric_scales(Exec{}, lo, hi, BitWidth(bits), kWeightAmaxFloor, symmetric);
    affine_scales(Exec{}, lo, hi, BitWidth(bits), scales, zeros);
    const DeviceBuffer<float> a(groups), b(groups), c(groups);
    symmetric_scales(test::cuda_exec(), device_lo.span(), device_hi.span(), BitWidth(bits), kWeightAmaxFloor, a.span());
    affine_scales(test::cuda_exec(), device_lo.span(), device_hi.span(), BitWidth(bits), b.span(), c.span());
    EXPECT_TRUE(test::same_bits(a.download(), symmetric)) << bits << " bits";
    EXPECT_TRUE(test::same_bits(b.download(), scales)) << bits << " bits";
    EXPECT_TRUE(test::same_bits(c.download(), zeros)) << bits << " bits";
  }
}

}  // namespace
}  // namespace qat::kernels
