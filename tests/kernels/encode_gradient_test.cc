// The gradient's codes on a CPU: the composition that the contract names, by hand and by finite differences.
#include "kernels/quant/encode_gradient.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/kernel_data.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using test::Grid;
using ::testing::HasSubstr;

struct Result {
  Result(std::int64_t rows, std::int64_t cols)
      : row_codes(rows, cols),
        cols_transposed(cols, rows),
        row_scales(static_cast<std::size_t>(rows)),
        col_scales(static_cast<std::size_t>(cols)),
        sums(static_cast<std::size_t>(cols)) {}
  GradientCodes out() { return {row_codes.view(), row_scales, cols_transposed.view(), col_scales, sums}; }

  Grid<std::int8_t> row_codes, cols_transposed;
  std::vector<float> row_scales, col_scales, sums;
};

GradientColumns columns_of(const Grid<float>& g) { return {{ConstFloatMatrix(g.view()), {}, {}}, 1}; }

std::vector<int> ints(const std::vector<std::int8_t>& codes) { return {codes.begin(), codes.end()}; }

TEST(EncodeGradient, GivesTheCodesScalesAndSumsWorkedOutByHand) {
  const Grid<float> g(2, 3, {1.0F, -2.0F, 0.5F, 3.0F, 4.0F, -1.0F});
  const std::vector<float> col_factors{1.0F, 0.5F, 2.0F}, row_factors{2.0F, 0.25F};
  Result result(2, 3);
  const EncodeOptions options{.width = BitWidth(3), .amax_floor = kGradientAmaxFloor};  // codes -3..3
  encode_gradient(Exec{}, columns_of(g), {col_factors, row_factors, options, options}, result.out());
  // g * col_factors: {1, -1, 1}, {3, 2, -2}
  EXPECT_EQ(result.row_scales, (std::vector<float>{1.0F / 3.0F, 1.0F}));
  EXPECT_EQ(ints(result.row_codes.values), (std::vector<int>{3, -3, 3, 3, 2, -2}));
  // g * row_factors: {2, -4, 1}, {0.75, 1, -0.25}
  EXPECT_EQ(result.col_scales, (std::vector<float>{2.0F / 3.0F, 4.0F / 3.0F, 1.0F / 3.0F}));
  EXPECT_EQ(ints(result.cols_transposed.values), (std::vector<int>{3, 1, -3, 1, 3, -1}));
  EXPECT_EQ(result.sums, (std::vector<float>{4.0F, 2.0F, -0.5F}));
}

TEST(EncodeGradient, OfPartsWithGapsIsThatOfThePartsTogether) {
  const Grid<float> whole = test::random_grid(70, 45, 3);
  Grid<float> wide(70, 64, 99.0F), other(70, 20);  // 30 of wide's columns, from the fifth on
  for (std::int64_t r = 0; r < 70; ++r) {
    for (std::int64_t c = 0; c < 30; ++c) wide.at(r, 4 + c) = whole.at(r, c);
    for (std::int64_t c = 0; c < 15; ++c) other.at(r, c) = whole.at(r, 30 + c);
  }
  const auto part = [](const Grid<float>& grid, std::int64_t first, std::int64_t cols) {
    return ConstFloatMatrix(grid.values.data() + first, grid.rows, cols, grid.cols, DType::kFloat32);
  };
  const GradientColumns parts{{part(wide, 4, 10), part(wide, 14, 20), part(other, 0, 15)}, 3};
  const std::vector<float> col_factors = test::random_factors(45, 1), row_factors = test::random_factors(70, 2);
  const EncodeOptions rows{.rounding = Rounding::kStochastic, .key = {1, 2}};
  const EncodeOptions cols{.width = BitWidth(6), .rounding = Rounding::kStochastic, .key = {3, 4}};
  const GradientEncoding encoding{col_factors, row_factors, rows, cols};
  Result together(70, 45), apart(70, 45);
  encode_gradient(Exec{}, columns_of(whole), encoding, together.out());
  const test::ThreadsParallelFor parallel(3);
  encode_gradient(Exec{.parallel = &parallel}, parts, encoding, apart.out());
  EXPECT_EQ(apart.row_codes.values, together.row_codes.values);
  EXPECT_EQ(apart.cols_transposed.values, together.cols_transposed.values);
  EXPECT_EQ(apart.row_scales, together.row_scales);
  EXPECT_EQ(apart.col_scales, together.col_scales);
  EXPECT_TRUE(test::same_bits(apart.sums, together.sums));

  std::vector<float> sums(45);
  column_sums(Exec{}, parts, sums);
  EXPECT_TRUE(test::same_bits(sums, together.sums));
  for (std::int64_t c = 0; c < 45; ++c) {
    double want = 0.0, magnitude = 0.0;
    for (std::int64_t r = 0; r < 70; ++r) {
      want += whole.at(r, c);
      magnitude += std::fabs(whole.at(r, c));
    }
    EXPECT_NEAR(sums[static_cast<std::size_t>(c)], want, magnitude * 1e-6);
  }
}

TEST(EncodeGradient, LeavesOutWhatIsNotWanted) {
  const Grid<float> g = test::random_grid(20, 33, 5);
  Result all(20, 33), some(20, 33);
  encode_gradient(Exec{}, columns_of(g), {}, all.out());
  encode_gradient(Exec{}, columns_of(g), {}, {some.row_codes.view(), some.row_scales, {}, {}, {}});
  EXPECT_EQ(some.row_codes.values, all.row_codes.values);
  EXPECT_EQ(some.col_scales, std::vector<float>(33, 0.0F));
  encode_gradient(Exec{}, columns_of(g), {}, {{}, {}, some.cols_transposed.view(), some.col_scales, {}});
  EXPECT_EQ(some.cols_transposed.values, all.cols_transposed.values);
  EXPECT_EQ(some.sums, std::vector<float>(33, 0.0F));
  Result scales(20, 33);
  encode_gradient(Exec{}, columns_of(g), {}, {{}, {}, {}, scales.col_scales, {}});
  EXPECT_EQ(scales.col_scales, all.col_scales);
  EXPECT_EQ(ints(scales.cols_transposed.values), std::vector<int>(660, 0));
}

double gelu(double x) { return 0.5 * x * (1.0 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }

TEST(EncodeGeluGradient, HasTheSlopeOfGelu) {  // by central differences in double
  Grid<float> x(1, 801), dy(1, 801), g(1, 801);
  for (std::int64_t c = 0; c < 801; ++c) {
    x.at(0, c) = 0.03F * static_cast<float>(c - 400);
    dy.at(0, c) = 1.0F + 0.5F * static_cast<float>(c % 3);
  }
  Result result(1, 801);
  encode_gelu_gradient(Exec{}, dy.view(), x.view(), g.view(), {}, result.out());
  for (std::int64_t c = 0; c < 801; ++c) {
    const double at = x.at(0, c), step = 1e-5, slope = (gelu(at + step) - gelu(at - step)) / (2 * step);
    EXPECT_NEAR(g.at(0, c), dy.at(0, c) * slope, 2e-6) << "at " << at;
  }
}

TEST(EncodeGeluGradient, CodesTheGradientThatItStoresAndMayWorkInPlace) {
  const Grid<float> x = test::random_grid(33, 17, 6);
  Grid<float> dy = test::random_grid(33, 17, 7), g(33, 17);
  const EncodeOptions stochastic{.rounding = Rounding::kStochastic, .key = {5, 6}};
  const GradientEncoding encoding{{}, {}, stochastic, stochastic};
  Result fused(33, 17), plain(33, 17), in_place(33, 17);
  encode_gelu_gradient(Exec{}, dy.view(), x.view(), g.view(), encoding, fused.out());
  encode_gradient(Exec{}, columns_of(g), encoding, plain.out());
  encode_gelu_gradient(Exec{}, dy.view(), x.view(), dy.view(), encoding, in_place.out());
  EXPECT_TRUE(test::same_bits(dy.values, g.values));
  for (const Result* other : {&plain, &in_place}) {
    EXPECT_EQ(fused.row_codes.values, other->row_codes.values);
    EXPECT_EQ(fused.cols_transposed.values, other->cols_transposed.values);
    EXPECT_EQ(fused.sums, other->sums);
  }
}

TEST(EncodeGeluGradient, StaysFiniteForHugeInput) {
  const Grid<float> x(1, 4, {1e20F, -1e20F, 30.0F, -30.0F}), dy(1, 4, 1.0F);
  Grid<float> g(1, 4);
  encode_gelu_gradient(Exec{}, dy.view(), x.view(), g.view(), {}, {});
  EXPECT_EQ(g.values, (std::vector<float>{1.0F, 0.0F, 1.0F, 0.0F}));
}

TEST(EncodeGradient, RefusesWhatItsContractExcludes) {
  const Grid<float> g(4, 6), short_one(3, 6);
  const std::vector<float> five(5);
  Result result(4, 6), wrong(6, 4);
  const auto message = [&](const GradientColumns& parts, const GradientEncoding& encoding, const GradientCodes& out) {
    return test::error_of(ErrorKind::kInternal, [&] { encode_gradient(Exec{}, parts, encoding, out); });
  };
  EXPECT_THAT(message({{}, 0}, {}, result.out()), HasSubstr("0 parts"));
  EXPECT_THAT(message({{g.view(), short_one.view(), {}}, 2}, {}, result.out()), HasSubstr("part 1 is [3, 6]"));
  EXPECT_THAT(message(columns_of(g), {}, wrong.out()), HasSubstr("row codes are [6, 4] for g of [4, 6]"));
  EXPECT_THAT(message(columns_of(g), {five, {}, {}, {}}, result.out()), HasSubstr("5 column factors"));
  EXPECT_THAT(message(columns_of(g), {{}, {}, {.width = BitWidth(12)}, {}}, result.out()), HasSubstr("not 12"));
  std::vector<float> six(6);
  EXPECT_THAT(message(columns_of(g), {}, {{}, {}, {}, std::span(six).first(5), {}}), HasSubstr("5 column scales"));
  EXPECT_THAT(message(columns_of(g), {{}, {}, {}, {.width = BitWidth(12)}}, {{}, {}, {}, six, {}}),
              HasSubstr("not 12"));
}

}  // namespace
}  // namespace qat::kernels
