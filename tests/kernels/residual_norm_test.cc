#include "kernels/norm/residual_norm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/kernel_data.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using test::Grid;
using ::testing::HasSubstr;

struct Forward {
  Grid<float> residual, normed;
  Grid<std::int8_t> codes, transposed;
  std::vector<float> scales, mean, rstd;

  Forward(std::int64_t rows, std::int64_t cols)
      : residual(rows, cols, -7.0F),
        normed(rows, cols, -7.0F),
        codes(rows, cols, 99),
        transposed(cols, rows, 99),
        scales(static_cast<std::size_t>(rows)),
        mean(static_cast<std::size_t>(rows)),
        rstd(static_cast<std::size_t>(rows)) {}
  ResidualNormOut out() {
    return {residual.view(), normed.view(), {codes.view(), transposed.view()}, scales, mean, rstd};
  }
};

struct Gradient {
  Grid<float> dx;
  std::vector<float> dweight, dbias;
};

TEST(ResidualNorm, IsAsComputedByHand) {
  const Grid<float> x(1, 4, {1.0F, 0.0F, 1.0F, 2.0F});
  const Grid<float> delta(1, 4, {0.0F, 3.0F, 4.0F, 5.0F});
  // r = 1 3 5 7: mean 4, variance 5; eps of 4 makes rstd 1/3 and the hats -1 -1/3 1/3 1.
  const std::vector<float> weight = {1.0F, 3.0F, 3.0F, 2.0F};
  const std::vector<float> bias = {0.0F, 0.0F, 2.0F, -1.0F};
  Forward got(1, 4);
  residual_norm({}, x.view(), delta.view(), {weight, bias, 4.0F}, {.width = BitWidth(3)}, got.out());
  EXPECT_THAT(got.residual.values, ::testing::ElementsAre(1.0F, 3.0F, 5.0F, 7.0F));
  EXPECT_FLOAT_EQ(got.mean[0], 4.0F);
  EXPECT_FLOAT_EQ(got.rstd[0], 1.0F / 3.0F);
  EXPECT_THAT(got.normed.values, ::testing::Pointwise(::testing::FloatEq(), {-1.0F, -1.0F, 3.0F, 1.0F}));
  EXPECT_FLOAT_EQ(got.scales[0], 1.0F);  // three bits: codes up to 3
  EXPECT_THAT(got.transposed.values, ::testing::ElementsAre(-1, -1, 3, 1));
  EXPECT_EQ(got.codes.values, got.transposed.values);
}

TEST(ResidualNorm, CodesAreThoseOfTheNormedRows) {
  const Grid<float> x = test::random_grid(19, 70, 1);
  const std::vector<float> weight = test::random_factors(70, 2);
  const std::vector<float> bias = test::random_factors(70, 3);
  Forward got(19, 70);
  residual_norm({}, x.view(), {}, {weight, bias}, {}, got.out());
  Forward want(19, 70);
  encode_rows({}, got.normed.view(), {}, {want.codes.view(), want.transposed.view()}, want.scales);
  EXPECT_EQ(got.residual.values, x.values) << "no delta";
  EXPECT_EQ(got.codes.values, want.codes.values);
  EXPECT_EQ(got.transposed.values, want.transposed.values);
  EXPECT_TRUE(test::same_bits(got.scales, want.scales));

  Forward alone(19, 70);  // codes without anything else
  ResidualNormOut out = alone.out();
  out.residual = {};
  out.normed = {};
  residual_norm({}, x.view(), {}, {weight, bias}, {}, out);
  EXPECT_EQ(alone.codes.values, want.codes.values);
}

TEST(ResidualNorm, ThreadsChangeNothing) {
  const Grid<float> x = test::random_grid(67, 130, 1);
  const Grid<float> dy = test::random_grid(67, 130, 2);
  const std::vector<float> weight = test::random_factors(130, 3);
  const test::ThreadsParallelFor threads(3);
  std::vector<Grid<float>> normed, dx;
  std::vector<std::vector<float>> dweight;
  for (const Exec& exec : {Exec{}, Exec{.parallel = &threads}}) {
    Forward got(67, 130);
    residual_norm(exec, x.view(), dy.view(), {weight, weight}, {}, got.out());
    Grid<float> to(67, 130);
    std::vector<float> dw(130), db(130);
    residual_norm_backward(exec, dy.view(), {got.residual.view(), got.mean, got.rstd, weight}, {}, to.view(), dw, db);
    normed.push_back(got.normed);
    dx.push_back(to);
    dweight.push_back(dw);
  }
  EXPECT_TRUE(test::same_bits(normed[0].values, normed[1].values));
  EXPECT_TRUE(test::same_bits(dx[0].values, dx[1].values));
  EXPECT_TRUE(test::same_bits(dweight[0], dweight[1]));
}

// sum of dy * y, in double, of r = x.
double loss(const Grid<float>& x, const Grid<float>& dy, const std::vector<float>& weight,
            const std::vector<float>& bias) {
  double total = 0.0;
  for (std::int64_t r = 0; r < x.rows; ++r) {
    double mean = 0.0;
    double variance = 0.0;
    for (const float value : x.row(r)) mean += value / static_cast<double>(x.cols);
    for (const float value : x.row(r)) variance += (value - mean) * (value - mean) / static_cast<double>(x.cols);
    for (std::int64_t c = 0; c < x.cols; ++c) {
      const double hat = (x.at(r, c) - mean) / std::sqrt(variance + 1e-5);
      total += dy.at(r, c) * (hat * weight[static_cast<std::size_t>(c)] + bias[static_cast<std::size_t>(c)]);
    }
  }
  return total;
}

TEST(ResidualNorm, GradientsMatchFiniteDifferences) {
  Grid<float> x = test::random_grid(3, 9, 4);
  const Grid<float> dy = test::random_grid(3, 9, 5);
  const Grid<float> past = test::random_grid(3, 9, 6);
  std::vector<float> weight = test::random_factors(9, 7);
  std::vector<float> bias = test::random_factors(9, 8);
  Forward saved(3, 9);
  residual_norm({}, x.view(), {}, {weight, bias}, {}, saved.out());
  Gradient got{past, std::vector<float>(9), std::vector<float>(9)};
  // In place: dresidual is dresidual_in.
  residual_norm_backward({}, dy.view(), {saved.residual.view(), saved.mean, saved.rstd, weight}, got.dx.view(),
                         got.dx.view(), got.dweight, got.dbias);
  const auto slope = [&](float& value) {
    const float before = value;
    value = before + 1e-3F;
    const double up = loss(x, dy, weight, bias);
    const float high = value;
    value = before - 1e-3F;
    const double down = loss(x, dy, weight, bias);
    const double step = static_cast<double>(high) - static_cast<double>(value);
    value = before;
    return (up - down) / step;
  };
  for (std::size_t i = 0; i < x.values.size(); ++i) {
    const double want = slope(x.values[i]) + past.values[i];
    EXPECT_NEAR(got.dx.values[i], want, 2e-3 * (1.0 + std::abs(want))) << i;
  }
  for (std::size_t c = 0; c < 9; ++c) {
    EXPECT_NEAR(got.dweight[c], slope(weight[c]), 1e-4 * (1.0 + std::abs(got.dweight[c]))) << c;
    EXPECT_NEAR(got.dbias[c], slope(bias[c]), 1e-4 * (1.0 + std::abs(got.dbias[c]))) << c;
  }
}

TEST(ResidualNorm, NoRowsGiveZeroSumsAndNonFiniteRowsNanScales) {
  std::vector<float> dweight(5, 3.0F), dbias(5, 3.0F);
  const std::vector<float> weight(5, 1.0F);
  Grid<float> none(0, 5);
  residual_norm_backward({}, none.view(), {none.view(), {}, {}, weight}, {}, none.view(), dweight, dbias);
  EXPECT_THAT(dweight, ::testing::Each(0.0F));
  EXPECT_THAT(dbias, ::testing::Each(0.0F));

  Grid<float> x = test::random_grid(3, 5, 9);
  x.at(1, 2) = INFINITY;
  Forward got(3, 5);
  residual_norm({}, x.view(), {}, {weight, weight}, {}, got.out());
  EXPECT_TRUE(std::isnan(got.scales[1]));
  EXPECT_THAT(got.codes.row(1), ::testing::Each(0));
  EXPECT_TRUE(std::isfinite(got.scales[0]) && std::isfinite(got.scales[2]));
}

TEST(ResidualNorm, RefusesWhatDoesNotFit) {
  const Grid<float> x(2, 3);
  const std::vector<float> weight(3), bias(2);
  Forward got(2, 3);
  EXPECT_THAT(test::error_of(ErrorKind::kInternal,
                             [&] {
                               residual_norm({}, x.view(), {}, {weight, bias}, {}, got.out());
                             }),
              HasSubstr("bias has 2 elements, not 3"));
  ResidualNormOut out = got.out();
  out.residual = {};
  EXPECT_THAT(test::error_of(ErrorKind::kInternal,
                             [&] {
                               residual_norm({}, x.view(), x.view(), {weight, weight}, {}, out);
                             }),
              HasSubstr("a sum has nowhere to go"));
}

}  // namespace
}  // namespace qat::kernels
