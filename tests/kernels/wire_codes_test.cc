#include "kernels/grad/wire_codes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/common/error.h"
#include "kernels/grad/tree_sum.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

constexpr WireFormat kFormats[] = {WireFormat::kFloat32, WireFormat::kBFloat16, WireFormat::kInt8, WireFormat::kInt4};

struct Encoded {
  std::vector<float> amax;
  std::vector<std::uint8_t> messages;
  std::vector<float> left;
};

Encoded encode(const std::vector<float>& x, const WireShape& shape, const std::vector<float>& residual = {},
               const WireRounding& rounding = {}) {
  Encoded all{.amax = std::vector<float>(static_cast<std::size_t>(shape.parts * shape.blocks())),
              .messages = std::vector<std::uint8_t>(static_cast<std::size_t>(shape.parts * shape.part_bytes())),
              .left = std::vector<float>(x.size())};
  wire_amax(Exec{}, x, residual, shape, all.amax);
  wire_encode(Exec{}, x, residual, all.amax, shape, rounding, all.messages, all.left);
  return all;
}

// What a single part stands for.
std::vector<float> decode(const Encoded& encoded, const WireShape& shape) {
  std::vector<float> values(static_cast<std::size_t>(shape.elems));
  wire_sum(Exec{}, encoded.messages, encoded.amax, shape, values);
  return values;
}

// By hand, int4: q_max 7, scale 7 / 7 = 1. 2.5 is rounded to the even 2, -0.5 to 0, -3.6 to -4.
TEST(WireCodes, AHandComputedBlock) {
  const WireShape shape{.format = WireFormat::kInt4, .elems = 5};
  const Encoded encoded = encode({7.0F, 2.5F, -0.5F, -3.6F, 1.5F}, shape);
  EXPECT_EQ(encoded.amax, std::vector<float>{7.0F});
  EXPECT_EQ(encoded.messages, (std::vector<std::uint8_t>{0x27, 0xC0, 0x02}));
  EXPECT_EQ(decode(encoded, shape), (std::vector<float>{7.0F, 2.0F, 0.0F, -4.0F, 2.0F}));
  EXPECT_EQ(encoded.left, (std::vector<float>{0.0F, 0.5F, -0.5F, -3.6F + 4.0F, -0.5F}));
}

TEST(WireCodes, BFloat16IsRoundedToNearestEven) {
  const WireShape shape{.format = WireFormat::kBFloat16, .elems = 4};
  EXPECT_EQ(decode(encode({1.0F + 0x1p-8F, 1.0F + 0x3p-8F, -1.5F, 0x1.01p-20F}, shape), shape),
            (std::vector<float>{1.0F, 1.0F + 0x4p-8F, -1.5F, 0x1p-20F}));
}

TEST(WireCodes, ValuesAndWhatIsLeftAreWhatWasGiven) {
  for (const WireFormat format : kFormats) {
    for (const std::int64_t block : {1, 7, 64, 256, 5000}) {
      const WireShape shape{.format = format, .elems = 1001, .block = block};
      const std::vector<float> x = test::random_grid(1, shape.elems, 3).values;
      const std::vector<float> residual = test::random_grid(1, shape.elems, 4).values;
      const Encoded encoded = encode(x, shape, residual);
      const std::vector<float> values = decode(encoded, shape);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const float y = x[i] + residual[i];
        EXPECT_EQ(encoded.left[i], y - values[i]);
        const float amax = encoded.amax[i / static_cast<std::size_t>(block)];
        const float step = format == WireFormat::kFloat32    ? 0.0F
                           : format == WireFormat::kBFloat16 ? std::fabs(y) * 0x1p-7F
                                                             : amax / static_cast<float>(wire_q_max(format));
        EXPECT_LE(std::fabs(encoded.left[i]), 0.5001F * step)
            << "format " << static_cast<int>(format) << " block " << block << " y " << y;
      }
    }
  }
}

TEST(WireCodes, MessagesOfNodesLieByPlaces) {
  const WireShape plain{.format = WireFormat::kInt8, .parts = 6, .elems = 3, .block = 2};
  WireShape placed = plain;
  placed.places = 2;  // parts (node, place): 00 01 10 11 20 21
  const std::vector<float> x = test::random_grid(6, 3, 8).values;
  const Encoded by_part = encode(x, plain), by_place = encode(x, placed);
  const int order[] = {0, 2, 4, 1, 3, 5};
  for (std::size_t i = 0; i < 6; ++i) {
    const auto part = static_cast<std::size_t>(order[i]);
    for (std::size_t j = 0; j < 3; ++j) EXPECT_EQ(by_place.messages[3 * i + j], by_part.messages[3 * part + j]);
    for (std::size_t j = 0; j < 2; ++j) EXPECT_EQ(by_place.amax[2 * i + j], by_part.amax[2 * part + j]);
  }
  EXPECT_EQ(by_place.left, by_part.left);
}

TEST(WireCodes, SumsAreTheTreeOfTheValues) {
  for (const WireFormat format : kFormats) {
    for (const std::int64_t parts : {1, 2, 3, 6, 8, 70}) {
      WireShape shape{.format = format, .parts = parts, .elems = 2051, .block = 100};
      const std::vector<float> x = test::random_grid(parts, shape.elems, 5).values;
      const Encoded encoded = encode(x, shape);
      std::vector<float> values(x.size()), want(static_cast<std::size_t>(shape.elems)), sum(want.size());
      WireShape one = shape;
      one.parts = 1;
      for (std::int64_t p = 0; p < parts; ++p) {
        Encoded part{.amax = {encoded.amax.begin() + p * one.blocks(), encoded.amax.begin() + (p + 1) * one.blocks()},
                     .messages = {encoded.messages.begin() + p * one.part_bytes(),
                                  encoded.messages.begin() + (p + 1) * one.part_bytes()},
                     .left = {}};
        const std::vector<float> decoded = decode(part, one);
        std::copy(decoded.begin(), decoded.end(), values.begin() + p * shape.elems);
      }
      tree_sum(Exec{}, values, parts, want);
      wire_sum(Exec{}, encoded.messages, encoded.amax, shape, sum);
      EXPECT_TRUE(test::same_bits(sum, want)) << parts << " parts";
    }
  }
}

TEST(WireCodes, SumsOfCodesAreExactInAnyTwoSteps) {
  for (const WireFormat format : {WireFormat::kInt8, WireFormat::kInt4}) {
    const WireShape shape{.format = format, .parts = 6, .elems = 1027, .block = 64};
    const std::vector<float> x = test::random_grid(6, shape.elems, 6).values;
    const Encoded encoded = encode(x, shape);
    // All parts share the first one's scales here; what the codes mean is not the question.
    const std::vector<float> amax(encoded.amax.begin(), encoded.amax.begin() + shape.blocks());
    std::vector<float> want(static_cast<std::size_t>(shape.elems)), found(want.size());
    scale_codes(Exec{}, encoded.messages, integer_of(format), 6, amax, shape, want);
    for (const WireInteger wide : {WireInteger::kInt16, WireInteger::kInt32}) {
      std::vector<std::uint8_t> sums(static_cast<std::size_t>(2 * bytes_of(wide, shape.elems)));
      const auto half = encoded.messages.size() / 2;
      for (const std::size_t h : {0U, 1U})
        sum_codes(Exec{}, std::span(encoded.messages).subspan(h * half, half), integer_of(format), 3, shape.elems,
                  std::span(sums).subspan(h * sums.size() / 2, sums.size() / 2), wide);
      scale_codes(Exec{}, sums, wide, 2, amax, shape, found);
      EXPECT_TRUE(test::same_bits(found, want));
    }
    float largest = 0.0F;
    for (const float value : want) largest = std::max(largest, std::fabs(value));
    EXPECT_GT(largest, 0.0F);
  }
}

TEST(WireCodes, TheNarrowestIntegerThatHoldsASum) {
  EXPECT_EQ(integer_for_sum(WireFormat::kInt8, 1), WireInteger::kInt8);
  EXPECT_EQ(integer_for_sum(WireFormat::kInt8, 2), WireInteger::kInt16);
  EXPECT_EQ(integer_for_sum(WireFormat::kInt8, 258), WireInteger::kInt16);
  EXPECT_EQ(integer_for_sum(WireFormat::kInt8, 259), WireInteger::kInt32);
  EXPECT_EQ(integer_for_sum(WireFormat::kInt4, 18), WireInteger::kInt8);
  EXPECT_EQ(integer_for_sum(WireFormat::kInt4, 19), WireInteger::kInt16);
  EXPECT_THROW((void)integer_for_sum(WireFormat::kInt8, std::int64_t{1} << 25), Error);
}

TEST(WireCodes, StochasticRoundingIsUnbiasedAndRepeatable) {
  const WireShape shape{.format = WireFormat::kInt8, .elems = 4000, .block = 4000};
  std::vector<float> x(4000, 0.3F);
  x[0] = 127.0F;  // scale 1
  const WireRounding rounding{.stochastic = true, .key = {.seed = 11, .stream = 2}};
  const std::vector<float> values = decode(encode(x, shape, {}, rounding), shape);
  double mean = 0.0;
  for (std::size_t i = 1; i < values.size(); ++i) {
    EXPECT_TRUE(values[i] == 0.0F || values[i] == 1.0F);
    mean += values[i] / 3999.0;
  }
  EXPECT_NEAR(mean, 0.3, 5 * std::sqrt(0.3 * 0.7 / 4000));  // five standard deviations
  EXPECT_EQ(decode(encode(x, shape, {}, rounding), shape), values);
  WireRounding other = rounding;
  other.first = 4000;
  EXPECT_NE(decode(encode(x, shape, {}, other), shape), values);
}

TEST(WireCodes, ZerosAndSubnormalsStayFinite) {
  for (const WireFormat format : {WireFormat::kInt8, WireFormat::kInt4}) {
    const WireShape shape{.format = format, .elems = 4, .block = 2};
    EXPECT_EQ(decode(encode({0.0F, -0.0F, 1e-42F, -1e-40F}, shape), shape), std::vector<float>(4, 0.0F));
  }
}

TEST(WireCodes, ABlockWithoutFiniteValuesIsNanAndNoOther) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {inf, -inf, nan, -nan}) {
    const WireShape shape{.format = WireFormat::kInt8, .elems = 300, .block = 256};
    std::vector<float> x(300, 1.0F);
    x[280] = bad;
    const std::vector<float> values = decode(encode(x, shape), shape);
    EXPECT_FLOAT_EQ(values[0], 1.0F);
    for (std::size_t i = 256; i < 300; ++i) EXPECT_TRUE(std::isnan(values[i])) << bad << " at " << i;
    const WireShape half{.format = WireFormat::kBFloat16, .elems = 300};
    EXPECT_FALSE(std::isfinite(decode(encode(x, half), half)[280]));
  }
  EXPECT_TRUE(std::isnan(encode({inf, nan}, {.format = WireFormat::kInt8, .elems = 2}).amax[0])) << "NaN is on top";
}

TEST(WireCodes, RefusesBuffersOfOtherSizes) {
  std::vector<float> x(8), amax(1);
  std::vector<std::uint8_t> messages(8);
  const WireShape shape{.format = WireFormat::kInt8, .elems = 8};
  EXPECT_THROW(wire_amax(Exec{}, std::span(x).first(7), {}, shape, amax), Error);
  EXPECT_THROW(wire_encode(Exec{}, x, {}, amax, shape, {}, std::span(messages).first(7), {}), Error);
  EXPECT_THROW(wire_sum(Exec{}, messages, std::span(amax).first(0), shape, x), Error);
  EXPECT_THROW(wire_sum(Exec{}, messages, amax, {.format = WireFormat::kInt8, .parts = 3, .elems = 8, .places = 2}, x),
               Error);
}

}  // namespace
}  // namespace qat::kernels
