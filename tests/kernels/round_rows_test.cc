// Rows rounded in place to what their codes stand for.
#include "kernels/quant/round_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::Grid;
using ::testing::HasSubstr;

float largest_of(std::span<const float> row) {
  float largest = 0.0F;
  for (const float value : row) largest = std::max(largest, std::fabs(value));
  return largest;
}

TEST(RoundRows, RoundsToTheNearestMultipleOfTheRowsScale) {
  Grid<float> x(2, 4, {3.0F, -1.4F, 0.5F, 1.5F, -6.0F, 2.9F, 3.1F, 0.0F});
  round_rows(Exec{}, x.view(), {.width = BitWidth(3)});  // scales 1 and 2
  EXPECT_EQ(x.values, (std::vector<float>{3.0F, -1.0F, 0.0F, 2.0F, -6.0F, 2.0F, 4.0F, 0.0F}));
}

TEST(RoundRows, DrawsByTheElementsIndex) {
  const EncodeOptions options{
      .width = BitWidth(5), .amax_floor = kGradientAmaxFloor, .rounding = Rounding::kStochastic, .key = {7, 8}};
  const Grid<float> x = test::random_grid(9, 53, 4);
  Grid<float> rounded = x;
  round_rows(Exec{}, rounded.view(), options);
  std::int64_t up = 0;
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const float scale = largest_of(x.row(r)) / 15.0F, inverse = 1.0F / scale;
    for (std::int64_t c = 0; c < x.cols; ++c) {
      const float u = rounding_uniform_at(options.key, static_cast<std::uint64_t>(r * x.cols + c));
      const double v = std::clamp(x.at(r, c) * inverse, -15.0F, 15.0F), code = std::floor(v + u);  // exact in double
      up += code > v ? 1 : 0;
      EXPECT_EQ(rounded.at(r, c), static_cast<float>(code) * scale) << r << ", " << c;
    }
  }
  EXPECT_GT(up, 100);  // of 477: both ways occur
}

TEST(RoundRows, IsEncodingAndDecoding) {
  for (const Rounding rounding : {Rounding::kNearestEven, Rounding::kStochastic})
    for (const int bits : {2, 5, 8}) {
      const EncodeOptions options{.width = BitWidth(bits), .rounding = rounding, .key = {1, 2}};
      Grid<float> x = test::random_grid(5, 40, 6), decoded(5, 40);
      x.at(3, 7) = INFINITY;
      for (std::int64_t c = 0; c < 40; ++c) x.at(4, c) = 0.0F;
      Grid<std::int8_t> codes(5, 40);
      std::vector<float> scales(5);
      encode_rows(Exec{}, x.view(), options, {codes.view(), {}}, scales);
      decode_rows(Exec{}, codes.view(), scales, decoded.view());
      round_rows(Exec{}, x.view(), options);
      EXPECT_TRUE(test::same_bits(x.values, decoded.values)) << bits << " bits";
      EXPECT_TRUE(std::isnan(x.at(3, 0)));
    }
}

TEST(RoundRows, AtFullPrecisionLeavesEverything) {
  Grid<float> x = test::random_grid(3, 5, 1);
  const Grid<float> before = x;
  round_rows(Exec{}, x.view(), {.width = BitWidth::full()});
  EXPECT_TRUE(test::same_bits(x.values, before.values));
}

TEST(RoundRows, RefusesWhatItsContractExcludes) {
  Grid<float> x(2, 2);
  const auto message = [&](const EncodeOptions& options) {
    return test::error_of(ErrorKind::kInternal, [&] { round_rows(Exec{}, x.view(), options); });
  };
  EXPECT_THAT(message({.width = BitWidth(9)}), HasSubstr("not 9"));
  EXPECT_THAT(message({.amax_floor = 1e-40F}), HasSubstr("floor"));
}

}  // namespace
}  // namespace qat::kernels
