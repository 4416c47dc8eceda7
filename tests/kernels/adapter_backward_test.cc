// Backward of an adapter on a CPU: by hand, and as the composition that the contract names.
#include "kernels/gemm/adapter_backward.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/kernel_data.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using test::Grid;
using ::testing::HasSubstr;

struct Operands {
  Operands(std::int64_t rows, std::int64_t cols, std::int64_t rank)
      : b(test::random_grid(cols, rank, 1)),
        h(test::random_grid(rows, rank, 2)),
        x_scales(test::random_factors(rows, 3)),
        a_scales(test::random_factors(rank, 4)),
        g_row_scales(test::random_factors(rows, 5)) {}
  AdapterBackwardOperands view() const { return {b.view(), h.view(), x_scales, a_scales, g_row_scales, scaling}; }

  Grid<float> b, h;
  std::vector<float> x_scales, a_scales, g_row_scales;
  float scaling = 0.75F;
};

struct Result {
  Result(std::int64_t rows, std::int64_t cols, std::int64_t rank)
      : db(cols, rank), dx_term(rows, rank), dh_cols(rank, rows), dh_col_scales(static_cast<std::size_t>(rank)) {}
  AdapterGradients out() { return {db.view(), dx_term.view(), dh_cols.view(), dh_col_scales}; }

  Grid<float> db, dx_term;
  Grid<std::int8_t> dh_cols;
  std::vector<float> dh_col_scales;
};

EncodeOptions stochastic(int bits, std::uint64_t seed) {
  return {
      .width = BitWidth(bits), .amax_floor = kGradientAmaxFloor, .rounding = Rounding::kStochastic, .key = {seed, 7}};
}
AdapterBackwardOptions three_roundings() { return {stochastic(8, 1), stochastic(7, 2), stochastic(6, 3)}; }

GradientColumns columns_of(const Grid<float>& g) { return {{ConstFloatMatrix(g.view()), {}, {}}, 1}; }

std::vector<int> ints(const std::vector<std::int8_t>& codes) { return {codes.begin(), codes.end()}; }

TEST(AdapterBackward, GivesTheGradientsWorkedOutByHand) {
  const Grid<float> g(2, 3, {1.0F, 2.0F, -1.0F, 0.0F, 1.0F, 3.0F});
  Operands operands(2, 3, 2);
  operands.b.values = {1.0F, 0.0F, 2.0F, 1.0F, 0.0F, -1.0F};
  operands.h.values = {1.0F, 2.0F, 3.0F, -1.0F};
  operands.x_scales = {2.0F, 0.5F};
  operands.a_scales = {1.0F, 3.0F};
  operands.g_row_scales = {1.5F, 4.0F};
  operands.scaling = 0.5F;
  Result result(2, 3, 2);
  const EncodeOptions rows{.width = BitWidth(3)}, cols{.width = BitWidth(4)};  // codes -3..3 and -7..7
  adapter_backward(Exec{}, columns_of(g), operands.view(), {rows, cols, {.width = BitWidth::full()}}, result.out());
  // h with its scales: {2, 4}, {1.5, -0.5}
  EXPECT_EQ(result.db.values, (std::vector<float>{1.0F, 2.0F, 2.75F, 3.75F, 1.25F, -2.75F}));
  // dh is {5, 3}, {2, -2}; times a_scales {5, 9}, {2, -6}: scales 3 and 2, codes {2, 3}, {1, -3}
  EXPECT_EQ(result.dx_term.values, (std::vector<float>{4.0F, 6.0F, 0.5F, -1.5F}));
  // Times x_scales: columns {10, 1}, {6, -1}
  EXPECT_EQ(result.dh_col_scales, (std::vector<float>{10.0F / 7.0F, 6.0F / 7.0F}));
  EXPECT_EQ(ints(result.dh_cols.values), (std::vector<int>{7, 1, 7, -1}));
  // At three bits the rows of db have the scales 2/3, 1.25 and 2.75/3: {1.5, 3} is a tie, then {2.2, 3}, {1.4, -3}.
  adapter_backward(Exec{}, columns_of(g), operands.view(), {rows, cols, rows}, result.out());
  const float s0 = 2.0F / 3.0F, s1 = 1.25F, s2 = 2.75F / 3.0F;
  EXPECT_EQ(result.db.values, (std::vector<float>{2.0F * s0, 3.0F * s0, 2.0F * s1, 3.0F * s1, s2, -3.0F * s2}));
}

// Whole numbers: sums are exact, whatever their order.
Grid<float> whole_numbers(std::int64_t rows, std::int64_t cols, unsigned seed) {
  Grid<float> values = test::random_grid(rows, cols, seed);
  for (float& value : values.values) value = std::clamp(std::rint(value), -4.0F, 4.0F);
  return values;
}

TEST(AdapterBackward, CodesDhAsEncodeGradientAndDbAsEncodeRows) {
  const std::int64_t rows = 33, cols = 40, rank = 8;
  const Grid<float> g = whole_numbers(rows, cols, 6);
  Operands operands(rows, cols, rank);
  operands.b = whole_numbers(cols, rank, 7);
  operands.h = whole_numbers(rows, rank, 8);
  for (std::size_t m = 0; m < operands.x_scales.size(); ++m) operands.x_scales[m] = m % 2 == 0 ? 2.0F : 0.5F;
  Result result(rows, cols, rank);
  const AdapterBackwardOptions options = three_roundings();
  adapter_backward(Exec{}, columns_of(g), operands.view(), options, result.out());

  Grid<float> dh(rows, rank), db(cols, rank);
  for (std::int64_t j = 0; j < rank; ++j) {
    for (std::int64_t m = 0; m < rows; ++m)
      for (std::int64_t n = 0; n < cols; ++n) dh.at(m, j) += g.at(m, n) * operands.b.at(n, j);
    for (std::int64_t n = 0; n < cols; ++n) {
      for (std::int64_t m = 0; m < rows; ++m)
        db.at(n, j) += g.at(m, n) * operands.h.at(m, j) * operands.x_scales[static_cast<std::size_t>(m)];
      db.at(n, j) *= operands.scaling;
    }
  }
  Grid<std::int8_t> row_codes(rows, rank), cols_transposed(rank, rows), db_codes(cols, rank);
  std::vector<float> row_scales(rows), col_scales(rank), db_scales(cols);
  encode_gradient(Exec{}, columns_of(dh), {operands.a_scales, operands.x_scales, options.rows, options.cols},
                  {row_codes.view(), row_scales, cols_transposed.view(), col_scales, {}});
  EXPECT_EQ(result.dh_cols.values, cols_transposed.values);
  EXPECT_EQ(result.dh_col_scales, col_scales);
  for (std::int64_t m = 0; m < rows; ++m)
    for (std::int64_t j = 0; j < rank; ++j) {
      const auto i = static_cast<std::size_t>(m);
      EXPECT_EQ(result.dx_term.at(m, j), row_codes.at(m, j) * (row_scales[i] / operands.g_row_scales[i]));
    }
  encode_rows(Exec{}, db.view(), options.db, {db_codes.view(), {}}, db_scales);
  decode_rows(Exec{}, std::as_const(db_codes).view(), db_scales, db.view());
  EXPECT_TRUE(test::same_bits(result.db.values, db.values));
}

TEST(AdapterBackward, OfPartsWithGapsIsThatOfThePartsTogether) {
  const Grid<float> whole = test::random_grid(70, 45, 3);
  Grid<float> wide(70, 64, NAN), other(70, 20, NAN);  // 30 of wide's columns, from the fifth on
  for (std::int64_t m = 0; m < 70; ++m) {
    for (std::int64_t n = 0; n < 30; ++n) wide.at(m, 4 + n) = whole.at(m, n);
    for (std::int64_t n = 0; n < 15; ++n) other.at(m, n) = whole.at(m, 30 + n);
  }
  const auto part = [](const Grid<float>& grid, std::int64_t first, std::int64_t cols) {
    return ConstFloatMatrix(grid.values.data() + first, grid.rows, cols, grid.cols, DType::kFloat32);
  };
  const GradientColumns parts{{part(wide, 4, 10), part(wide, 14, 20), part(other, 0, 15)}, 3};
  const Operands operands(70, 45, 5);
  Result together(70, 45, 5), apart(70, 45, 5);
  adapter_backward(Exec{}, columns_of(whole), operands.view(), three_roundings(), together.out());
  const test::ThreadsParallelFor parallel(3);
  adapter_backward(Exec{.parallel = &parallel}, parts, operands.view(), three_roundings(), apart.out());
  EXPECT_TRUE(test::same_bits(apart.db.values, together.db.values));
  EXPECT_TRUE(test::same_bits(apart.dx_term.values, together.dx_term.values));
  EXPECT_EQ(apart.dh_cols.values, together.dh_cols.values);
  EXPECT_EQ(apart.dh_col_scales, together.dh_col_scales);
}

// The columns of whatever g the operands are for, as encode_gradient gives them.
struct Columns {
  Columns(const GradientColumns& g, std::int64_t cols, const std::vector<float>& x_scales, const EncodeOptions& as)
      : options(as), want(cols, g.parts[0].rows), got(cols, g.parts[0].rows), scales(static_cast<std::size_t>(cols)) {
    encode_gradient(Exec{}, g, {{}, x_scales, {}, options}, {{}, {}, want.view(), scales, {}});
  }
  AdapterColumns view() { return {options, scales, got.view()}; }

  EncodeOptions options;
  Grid<std::int8_t> want, got;
  std::vector<float> scales;
};

TEST(AdapterBackward, CodesTheColumnsOfGAsEncodeGradientDoes) {
  Grid<float> g = test::random_grid(37, 45, 3);
  g.at(5, 40) = INFINITY;  // a column with the scale NaN
  const auto part = [&](std::int64_t first, std::int64_t cols) {
    return ConstFloatMatrix(g.values.data() + first, g.rows, cols, g.cols, DType::kFloat32);
  };
  const Operands operands(37, 45, 5);
  for (const GradientColumns& parts : {columns_of(g), GradientColumns{{part(0, 10), part(10, 20), part(30, 15)}, 3}})
    for (const EncodeOptions& options : {stochastic(7, 9), EncodeOptions{.width = BitWidth(5)}}) {
      Columns columns(parts, 45, operands.x_scales, options);
      Result with(37, 45, 5), without(37, 45, 5);
      adapter_backward(Exec{}, parts, operands.view(), three_roundings(), with.out(), columns.view());
      EXPECT_EQ(ints(columns.got.values), ints(columns.want.values));
      adapter_backward(Exec{}, parts, operands.view(), three_roundings(), without.out());
      EXPECT_TRUE(test::same_bits(with.db.values, without.db.values));
      EXPECT_EQ(with.dh_cols.values, without.dh_cols.values);
    }
}

TEST(AdapterBackward, TakesAllOfFp32OnACpu) {
  const Grid<float> g(3, 5);
  EXPECT_TRUE(takes_adapter_backward(Exec{}, columns_of(g), 7));
  const ConstFloatMatrix bf16(g.values.data(), 3, 5, 5, DType::kBFloat16);
  EXPECT_FALSE(takes_adapter_backward(Exec{}, {{bf16, {}, {}}, 1}, 7));
}

TEST(AdapterBackward, RefusesWhatItsContractExcludes) {
  const Grid<float> g(4, 6), short_one(3, 6);
  Operands operands(4, 6, 2);
  Result result(4, 6, 2), wrong(6, 4, 2);
  const auto message = [&](const GradientColumns& parts, const AdapterBackwardOptions& options,
                           const AdapterGradients& out) {
    return test::error_of(ErrorKind::kInternal,
                          [&] { adapter_backward(Exec{}, parts, operands.view(), options, out); });
  };
  const EncodeOptions wide{.width = BitWidth(12)};
  EXPECT_THAT(message({{}, 0}, {}, result.out()), HasSubstr("0 parts"));
  EXPECT_THAT(message({{g.view(), short_one.view(), {}}, 2}, {}, result.out()), HasSubstr("part 1 is [3, 6]"));
  EXPECT_THAT(message(columns_of(g), {}, wrong.out()), HasSubstr("db is [4, 2] for g of [4, 6] and rank 2"));
  EXPECT_THAT(message(columns_of(g), {wide, {}, {}}, result.out()), HasSubstr("not 12"));
  EXPECT_THAT(message(columns_of(g), {{}, {.width = BitWidth::full()}, {}}, result.out()), HasSubstr("not 32"));
  EXPECT_THAT(message(columns_of(g), {{}, {}, wide}, result.out()), HasSubstr("not 12"));
  Grid<std::int8_t> codes(6, 4);
  const std::vector<float> scales(6, 1.0F);
  const auto columns_message = [&](const AdapterColumns& columns) {
    return test::error_of(ErrorKind::kInternal,
                          [&] { adapter_backward(Exec{}, columns_of(g), operands.view(), {}, result.out(), columns); });
  };
  EXPECT_THAT(columns_message({{}, scales, {codes.values.data(), 4, 6}}), HasSubstr("codes of g are [4, 6]"));
  EXPECT_THAT(columns_message({{}, std::span(scales).first(5), codes.view()}), HasSubstr("5 column scales of g"));
  EXPECT_THAT(columns_message({wide, scales, codes.view()}), HasSubstr("not 12"));
  operands.a_scales.pop_back();
  EXPECT_THAT(message(columns_of(g), {}, result.out()), HasSubstr("1 scales of A"));
  operands.h = Grid<float>(4, 3);
  EXPECT_THAT(message(columns_of(g), {}, result.out()), HasSubstr("h is [4, 3]"));
}

}  // namespace
}  // namespace qat::kernels
