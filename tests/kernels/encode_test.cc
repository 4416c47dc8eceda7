// What encoding promises: golden codes, properties at every width, rejection of bad input.
#include "kernels/quant/encode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "kernels/gemm/code_matmul.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::Grid;
using ::testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Encoded {
  Grid<std::int8_t> codes;
  std::vector<float> scales;
};

Encoded encode(const Grid<float>& x, const EncodeOptions& options) {
  Encoded result{{x.rows, x.cols}, std::vector<float>(static_cast<std::size_t>(x.rows))};
  encode_rows(Exec{}, x.view(), options, {result.codes.view(), {}}, result.scales);
  return result;
}

std::vector<int> ints(const std::vector<std::int8_t>& codes) { return {codes.begin(), codes.end()}; }

const Grid<float> kGolden(1, 9, {-1.0F, -.6F, -.25F, -.04F, 0.0F, .02F, .13F, .5F, .9F});

TEST(Encode, GivesTheGoldenCodesOfTheSymmetricQuantizer) {
  const auto codes_at = [](int bits) { return ints(encode(kGolden, {.width = BitWidth(bits)}).codes.values); };
  EXPECT_EQ(codes_at(2), (std::vector<int>{-1, -1, 0, 0, 0, 0, 0, 0, 1}));
  EXPECT_EQ(codes_at(3), (std::vector<int>{-3, -2, -1, 0, 0, 0, 0, 2, 3}));
  // In exact arithmetic 0.5 / (1/7) is a tie, and 4. The fp32 number next to 1/7 is larger than it: 3.49999984,
  // hence 3.
  EXPECT_EQ(codes_at(4), (std::vector<int>{-7, -4, -2, 0, 0, 0, 1, 3, 6}));
  EXPECT_EQ(codes_at(8), (std::vector<int>{-127, -76, -32, -5, 0, 3, 17, 64, 114}));
  EXPECT_FLOAT_EQ(encode(kGolden, {.width = BitWidth(4)}).scales[0], 1.0F / 7.0F);
}

TEST(Encode, RoundsTiesToEven) {  // scale 1: the values are their own quotients
  const Grid<float> x(1, 8, {127.0F, 0.5F, 1.5F, 2.5F, 3.5F, -0.5F, -1.5F, -2.5F});
  EXPECT_EQ(ints(encode(x, {}).codes.values), (std::vector<int>{127, 0, 2, 2, 4, 0, -2, -2}));
}

class EncodeAtWidth : public ::testing::TestWithParam<int> {
 protected:
  const BitWidth width{GetParam()};
  const EncodeOptions options{.width = width};
  const Grid<float> x = test::random_grid(5, 301, 17);
};

TEST_P(EncodeAtWidth, CodesStayWithinQMaxAndTheLargestGetsIt) {
  const Encoded result = encode(x, options);
  for (std::int64_t r = 0; r < x.rows; ++r) {
    int largest = 0;
    for (const std::int8_t code : result.codes.row(r)) largest = std::max(largest, std::abs(static_cast<int>(code)));
    EXPECT_EQ(largest, width.q_max());
    float max_abs = 0.0F;
    for (const float value : x.row(r)) max_abs = std::max(max_abs, std::fabs(value));
    EXPECT_FLOAT_EQ(static_cast<float>(width.q_max()) * result.scales[static_cast<std::size_t>(r)], max_abs);
  }
}

TEST_P(EncodeAtWidth, ErrorIsAtMostHalfAScale) {
  const Encoded result = encode(x, options);
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const double scale = result.scales[static_cast<std::size_t>(r)];
    for (std::int64_t c = 0; c < x.cols; ++c)  // the quotient is rounded twice in fp32: 2^-22 of at most 127
      EXPECT_LE(std::abs(x.at(r, c) - result.codes.at(r, c) * scale), scale * (0.5 + 127 * 0x1p-22));
  }
}

TEST_P(EncodeAtWidth, IsIdempotent) {  // what codes stand for is coded as themselves, with fresh or given scales
  const Encoded once = encode(x, options);
  Grid<float> values(x.rows, x.cols);
  decode_rows(Exec{}, once.codes.view(), once.scales, values.view());
  EXPECT_EQ(encode(values, options).codes.values, once.codes.values);
  Grid<std::int8_t> again(x.rows, x.cols);
  encode_with_scales(Exec{}, values.view(), once.scales, options, {again.view(), {}});
  EXPECT_EQ(again.values, once.codes.values);
}

TEST_P(EncodeAtWidth, IsMonotoneAndUsesEveryLevel) {
  Grid<float> ramp(1, 4001);
  for (std::int64_t c = 0; c < ramp.cols; ++c) ramp.at(0, c) = static_cast<float>(c - 2000) * 0.013F;
  const Encoded result = encode(ramp, options);
  EXPECT_TRUE(std::is_sorted(result.codes.values.begin(), result.codes.values.end()));
  const std::set<int> levels(result.codes.values.begin(), result.codes.values.end());
  EXPECT_EQ(static_cast<int>(levels.size()), (1 << width.bits()) - 1);
}

TEST_P(EncodeAtWidth, AZeroRowGetsTheFloorAndZeroCodes) {
  for (const float floor : {kWeightAmaxFloor, kGradientAmaxFloor}) {
    const Encoded result = encode(Grid<float>(2, 33), {.width = width, .amax_floor = floor});
    EXPECT_EQ(result.scales[1], floor / static_cast<float>(width.q_max()));
    EXPECT_EQ(result.codes.values, std::vector<std::int8_t>(66, 0));
  }
}

INSTANTIATE_TEST_SUITE_P(Bits, EncodeAtWidth, ::testing::Values(2, 3, 4, 5, 6, 7, 8));

TEST(Encode, KeepsTheWholeResolutionForTinyGradients) {
  const Grid<float> x(1, 3, {1e-24F, -5e-25F, 1e-26F});
  EXPECT_EQ(ints(encode(x, {.amax_floor = kGradientAmaxFloor}).codes.values), (std::vector<int>{127, -64, 1}));
}

TEST(Encode, ARowThatIsNotFiniteGetsAScaleThatReachesTheLoss) {
  for (const float bad : {kNaN, -kNaN, kInfinity, -kInfinity})
    for (const Rounding rounding : {Rounding::kNearestEven, Rounding::kStochastic}) {
      Grid<float> x = test::random_grid(3, 37, 5);
      x.at(1, 20) = bad;
      const Encoded result = encode(x, {.rounding = rounding});
      EXPECT_TRUE(std::isnan(result.scales[1]));
      EXPECT_TRUE(std::isfinite(result.scales[0]) && std::isfinite(result.scales[2]));
      for (const std::int8_t code : result.codes.row(1)) EXPECT_EQ(code, 0);

      const Grid<std::int8_t> weights = test::random_codes(4, 37, 6);
      Grid<float> y(3, 4);
      const std::vector<float> one{1.0F};
      code_matmul(Exec{}, result.codes.view(), weights.view(), {result.scales, one, {}, false}, y.view());
      for (std::int64_t c = 0; c < 4; ++c) {
        EXPECT_TRUE(std::isnan(y.at(1, c)));
        EXPECT_TRUE(std::isfinite(y.at(0, c)) && std::isfinite(y.at(2, c)));
      }
    }
}

TEST(Encode, AColumnThatIsNotFiniteIsMarkedAlone) {
  Grid<float> x = test::random_grid(40, 5, 5);
  x.at(33, 2) = kInfinity;
  Grid<std::int8_t> codes(40, 5);
  std::vector<float> scales(5);
  encode_cols(Exec{}, x.view(), {}, {codes.view(), {}}, scales);
  for (std::int64_t c = 0; c < 5; ++c) {
    EXPECT_EQ(std::isnan(scales[static_cast<std::size_t>(c)]), c == 2);
    int largest = 0;
    for (std::int64_t r = 0; r < 40; ++r) largest = std::max(largest, std::abs(static_cast<int>(codes.at(r, c))));
    EXPECT_EQ(largest, c == 2 ? 0 : 127);
  }
}

TEST(Encode, WithGivenScalesSaturates) {
  const Grid<float> x(1, 6, {1e30F, -1e30F, kInfinity, -kInfinity, kNaN, 0.26F});
  Grid<std::int8_t> codes(1, 6);
  const std::vector<float> scale{0.5F};
  encode_with_scales(Exec{}, x.view(), scale, {.width = BitWidth(3)}, {codes.view(), {}});
  EXPECT_EQ(ints(codes.values), (std::vector<int>{3, -3, 3, -3, 0, 1}));
}

TEST(Encode, AcceptsAMatrixWithoutElements) {
  Grid<float> none(0, 7);
  std::vector<float> no_scales;
  encode_rows(Exec{}, none.view(), {}, {}, no_scales);
  std::vector<float> scales(7, -1.0F);
  encode_cols(Exec{}, none.view(), {}, {}, scales);
  EXPECT_EQ(scales, std::vector<float>(7, kWeightAmaxFloor / 127.0F));
}

TEST(Encode, RefusesWhatItsContractExcludes) {
  const Grid<float> x(3, 5);
  Grid<std::int8_t> codes(3, 5), wrong(5, 3);
  std::vector<float> scales(3), two(2);
  const auto message = [&](const EncodeOptions& options, const CodesOut& out, std::span<float> s) {
    return test::error_of(ErrorKind::kInternal, [&] { encode_rows(Exec{}, x.view(), options, out, s); });
  };
  EXPECT_THAT(message({.width = BitWidth(9)}, {codes.view(), {}}, scales), HasSubstr("2..8, not 9"));
  EXPECT_THAT(message({.width = BitWidth::full()}, {codes.view(), {}}, scales), HasSubstr("2..8, not 32"));
  EXPECT_THAT(message({.amax_floor = 0.0F}, {codes.view(), {}}, scales), HasSubstr("must be positive"));
  EXPECT_THAT(message({}, {wrong.view(), {}}, scales), HasSubstr("codes are [5, 3] for x of [3, 5]"));
  EXPECT_THAT(message({}, {{}, codes.view()}, scales), HasSubstr("transposed codes are [3, 5]"));
  EXPECT_THAT(message({}, {}, scales), HasSubstr("nowhere"));
  EXPECT_THAT(message({}, {codes.view(), {}}, two), HasSubstr("2 row scales"));
  const Factors factors{two, {}};
  EXPECT_THAT(test::error_of(ErrorKind::kInternal,
                             [&] {
                               encode_scaled_rows(Exec{}, x.view(), factors, {}, {codes.view(), {}}, scales);
                             }),
              HasSubstr("2 row factors"));
  EXPECT_THAT(test::error_of(ErrorKind::kInternal,
                             [&] {
                               encode_with_scales(Exec{}, x.view(), two, {}, {codes.view(), {}});
                             }),
              HasSubstr("2 scales for 3 rows"));
}

TEST(Encode, TakesBfloat16AndGapsOnAGpuOnly) {
  const Grid<float> x(4, 8);
  Grid<std::int8_t> codes(4, 4), whole(4, 8);
  std::vector<float> scales(4);
  const ConstFloatMatrix gaps(x.values.data(), 4, 4, 8, DType::kFloat32);
  const ConstFloatMatrix halves(x.values.data(), 4, 8, 8, DType::kBFloat16);
  EXPECT_THAT(test::error_of(ErrorKind::kInternal,
                             [&] {
                               encode_rows(Exec{}, gaps, {}, {codes.view(), {}}, scales);
                             }),
              HasSubstr("dense"));
  EXPECT_THAT(test::error_of(ErrorKind::kInternal,
                             [&] {
                               encode_rows(Exec{}, halves, {}, {whole.view(), {}}, scales);
                             }),
              HasSubstr("fp32"));
}

TEST(Encode, OnACudaDeviceABuildWithoutCudaSaysSo) {
  const Grid<float> none(0, 5);  // which a build with CUDA accepts without a device
  std::vector<float> scales;
  try {
    encode_rows(Exec{.device = Device::kCuda}, none.view(), {}, {}, scales);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_THAT(error.what(), HasSubstr("without CUDA"));
  }
}

}  // namespace
}  // namespace qat::kernels
