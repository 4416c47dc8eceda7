#include "kernels/activation/gelu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/kernel_data.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using test::Grid;

double exact(double x) { return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x))); }

Grid<float> line() {
  Grid<float> x(1, 401);
  for (std::int64_t i = 0; i < x.cols; ++i) x.at(0, i) = 0.05F * static_cast<float>(i - 200);
  return x;
}

TEST(Gelu, IsTheFormula) {
  const Grid<float> x = line();
  Grid<float> y(1, x.cols);
  gelu({}, x.view(), y.view());
  EXPECT_EQ(y.at(0, 200), 0.0F);
  EXPECT_NEAR(y.at(0, 220), 0.8411920F, 1e-6F);  // gelu(1)
  for (std::int64_t i = 0; i < x.cols; ++i) {
    const double want = exact(x.at(0, i));
    EXPECT_NEAR(y.at(0, i), want, 1e-6 * (1.0 + std::abs(want))) << "x = " << x.at(0, i);
  }
  Grid<float> in_place = x;
  gelu({}, in_place.view(), in_place.view());
  EXPECT_TRUE(test::same_bits(in_place.values, y.values));
}

TEST(Gelu, SlopeMatchesFiniteDifferences) {
  const Grid<float> x = line();
  const Grid<float> dy(1, x.cols, 2.0F);
  Grid<float> dx(1, x.cols);
  gelu_backward({}, dy.view(), x.view(), dx.view());
  for (std::int64_t i = 0; i < x.cols; ++i) {
    const double at = x.at(0, i);
    EXPECT_NEAR(dx.at(0, i), 2.0 * (exact(at + 1e-4) - exact(at - 1e-4)) / 2e-4, 1e-5) << "x = " << at;
  }
  const Grid<float> extremes(1, 4, {-1e30F, 1e30F, -INFINITY, INFINITY});
  Grid<float> slopes(1, 4, 1.0F);
  gelu_backward({}, slopes.view(), extremes.view(), slopes.view());
  EXPECT_THAT(slopes.values, ::testing::ElementsAre(0.0F, 1.0F, 0.0F, 1.0F));
}

TEST(Gelu, EncodeIsTheEncodingOfGelu) {
  const Grid<float> x = test::random_grid(21, 53, 1);
  Grid<float> y(21, 53);
  gelu({}, x.view(), y.view());
  const test::ThreadsParallelFor threads(3);
  Grid<std::int8_t> codes(21, 53), transposed(53, 21), want_codes(21, 53), want_transposed(53, 21);
  std::vector<float> scales(21), want_scales(21);
  gelu_encode({.parallel = &threads}, x.view(), {.width = BitWidth(5)}, {codes.view(), transposed.view()}, scales);
  encode_rows({}, y.view(), {.width = BitWidth(5)}, {want_codes.view(), want_transposed.view()}, want_scales);
  EXPECT_EQ(codes.values, want_codes.values);
  EXPECT_EQ(transposed.values, want_transposed.values);
  EXPECT_TRUE(test::same_bits(scales, want_scales));
  // With the values themselves.
  Grid<float> values(21, 53);
  Grid<std::int8_t> again(21, 53);
  gelu_encode({.parallel = &threads}, x.view(), {.width = BitWidth(5)}, {again.view(), {}}, scales, values.view());
  EXPECT_TRUE(test::same_bits(values.values, y.values));
  EXPECT_EQ(again.values, want_codes.values);
}

TEST(Gelu, RefusesWhatDoesNotFit) {
  const Grid<float> x(2, 3);
  Grid<float> y(3, 2);
  EXPECT_THAT(test::error_of(ErrorKind::kInternal, [&] { gelu({}, x.view(), y.view()); }),
              ::testing::HasSubstr("y is [3, 2] for x of [2, 3]"));
  std::vector<float> scales(2);
  EXPECT_THAT(test::error_of(ErrorKind::kInternal, [&] { gelu_encode({}, x.view(), {}, {}, scales); }),
              ::testing::HasSubstr("nowhere to write codes"));
}

}  // namespace
}  // namespace qat::kernels
