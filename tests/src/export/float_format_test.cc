#include "src/export/float_format.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace qat {
namespace {

float decoded(FloatFormat format, std::uint16_t bits) {
  float out = 0;
  to_float(format, std::as_bytes(std::span(&bits, 1)), std::span(&out, 1));
  return out;
}

std::uint16_t encoded(FloatFormat format, float value) {
  std::uint16_t bits = 0;
  from_float(format, std::span(&value, 1), std::as_writable_bytes(std::span(&bits, 1)));
  return bits;
}

TEST(FloatFormat, NumbersThatAreKnown) {
  EXPECT_EQ(decoded(FloatFormat::kFloat16, 0x3C00), 1.0F);
  EXPECT_EQ(decoded(FloatFormat::kFloat16, 0xC500), -5.0F);
  EXPECT_EQ(decoded(FloatFormat::kFloat16, 0x7BFF), 65504.0F);
  EXPECT_EQ(decoded(FloatFormat::kFloat16, 0x0001), std::ldexp(1.0F, -24));
  EXPECT_EQ(decoded(FloatFormat::kFloat16, 0x0400), std::ldexp(1.0F, -14));
  EXPECT_TRUE(std::signbit(decoded(FloatFormat::kFloat16, 0x8000)));
  EXPECT_EQ(decoded(FloatFormat::kBFloat16, 0x3F80), 1.0F);
  EXPECT_EQ(decoded(FloatFormat::kBFloat16, 0xC0A0), -5.0F);
  EXPECT_TRUE(std::isinf(decoded(FloatFormat::kFloat16, 0x7C00)));
  EXPECT_TRUE(std::isnan(decoded(FloatFormat::kFloat16, 0x7C01)));
}

// Every number of either format: a model that came in one goes out the same.
TEST(FloatFormat, EverySixteenBitNumberComesBackFromFp32) {
  for (const FloatFormat format : {FloatFormat::kFloat16, FloatFormat::kBFloat16}) {
    for (unsigned bits = 0; bits <= 0xFFFF; ++bits) {
      const float value = decoded(format, static_cast<std::uint16_t>(bits));
      if (std::isnan(value)) {
        EXPECT_TRUE(std::isnan(decoded(format, encoded(format, value))));
      } else {
        ASSERT_EQ(encoded(format, value), bits) << enum_name(format);
      }
    }
  }
}

TEST(FloatFormat, RoundsToTheNearestTiesToEvenAndOverflowsToInfinity) {
  for (const FloatFormat format : {FloatFormat::kFloat16, FloatFormat::kBFloat16}) {
    for (unsigned bits = 0; bits < 0x7BFF; bits += 7) {  // neighbours, and what lies between them
      const float low = decoded(format, static_cast<std::uint16_t>(bits)),
                  high = decoded(format, static_cast<std::uint16_t>(bits + 1));
      if (!std::isfinite(high)) continue;
      const float middle = low / 2 + high / 2;
      ASSERT_EQ(encoded(format, middle), bits + (bits & 1U)) << bits;
      ASSERT_EQ(encoded(format, std::nextafter(middle, low)), bits) << bits;
      ASSERT_EQ(encoded(format, -std::nextafter(middle, high)), (bits + 1) | 0x8000U) << bits;
    }
  }
  EXPECT_EQ(encoded(FloatFormat::kFloat16, 65519.9F), 0x7BFF);
  EXPECT_EQ(encoded(FloatFormat::kFloat16, 65520.0F), 0x7C00);
  EXPECT_EQ(encoded(FloatFormat::kBFloat16, std::numeric_limits<float>::max()), 0x7F80);
}

}  // namespace
}  // namespace qat
