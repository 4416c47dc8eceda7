#include "kernels/attention/keep_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/quant/encode.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::Grid;
using ::testing::HasSubstr;

// Two tokens go to rows 3 and 0 of five; keys and values have scales of their own.
TEST(KeepTokens, AreTheCodesOfKeysAndValuesAsRows) {
  for (const int bits : {2, 4, 8}) {
    const Grid<float> x = test::random_grid(2, 12, 1);
    Grid<std::int8_t> codes(5, 12, std::int8_t{99});
    std::vector<float> scales(10, -1.0F);
    keep_tokens({}, x.view(), BitWidth(bits), std::vector<std::int64_t>{3, 0}, codes.view(), scales);
    for (const auto& [token, row] : {std::pair<std::int64_t, std::int64_t>{0, 3}, {1, 0}}) {
      const Grid<float> rows(2, 6, {x.row(token).begin(), x.row(token).end()});
      Grid<std::int8_t> want(2, 6);
      std::vector<float> want_scales(2);
      encode_rows({}, rows.view(), {.width = BitWidth(bits)}, {want.view(), {}}, want_scales);
      EXPECT_EQ(std::vector<std::int8_t>(codes.row(row).begin(), codes.row(row).end()), want.values);
      EXPECT_EQ(scales[static_cast<std::size_t>(2 * row)], want_scales[0]);
      EXPECT_EQ(scales[static_cast<std::size_t>(2 * row + 1)], want_scales[1]);
    }
    for (const std::int64_t other : {1, 2, 4}) {
      EXPECT_THAT(codes.row(other), ::testing::Each(std::int8_t{99}));
      EXPECT_EQ(scales[static_cast<std::size_t>(2 * other)], -1.0F);
    }
  }
}

TEST(KeepTokens, AsFloatsAreWhatTheyWere) {
  const Grid<float> wide = test::random_grid(2, 18, 1);  // keys and values in columns 6 to 17
  Grid<float> kept(5, 12, 99.0F);
  keep_tokens({}, {wide.values.data() + 6, 2, 12, 18, DType::kFloat32}, std::vector<std::int64_t>{3, 0},
              FloatMatrix(kept.view()));
  for (std::int64_t c = 0; c < 12; ++c) {
    EXPECT_EQ(kept.at(3, c), wide.at(0, 6 + c));
    EXPECT_EQ(kept.at(0, c), wide.at(1, 6 + c));
  }
  for (const std::int64_t other : {1, 2, 4}) EXPECT_THAT(kept.row(other), ::testing::Each(99.0F));
}

TEST(KeepTokens, RefuseWhatDoesNotFit) {
  const Grid<float> x = test::random_grid(2, 12, 1);
  Grid<std::int8_t> codes(5, 12);
  std::vector<float> scales(10);
  const auto message = [&](int bits, const std::vector<std::int64_t>& rows, std::span<float> into) {
    return test::error_of(ErrorKind::kInternal,
                          [&] { keep_tokens({}, x.view(), BitWidth(bits), rows, codes.view(), into); });
  };
  EXPECT_THAT(message(9, {0, 1}, scales), HasSubstr("not 9"));
  EXPECT_THAT(message(8, {0}, scales), HasSubstr("1 rows"));
  EXPECT_THAT(message(8, {0, 5}, scales), HasSubstr("one of the rows"));
  EXPECT_THAT(message(8, {0, 1}, std::span(scales).subspan(1)), HasSubstr("9 scales"));
}

}  // namespace
}  // namespace qat::kernels
