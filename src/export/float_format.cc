#include "src/export/float_format.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/common/error.h"

namespace qat {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are read as they lie in memory");

float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16U;
  const std::uint32_t exponent = (half >> 10U) & 0x1FU, mantissa = half & 0x3FFU;
  if (exponent == 0) return std::copysign(std::ldexp(static_cast<float>(mantissa), -24), std::bit_cast<float>(sign));
  const std::uint32_t wide = exponent == 0x1FU ? 0xFFU : exponent + 112U;  // the biases are 15 and 127
  return std::bit_cast<float>(sign | wide << 23U | mantissa << 13U);
}

std::uint16_t float_to_half(float value) {
  constexpr std::uint32_t kInfinity = 0x7F800000U;
  constexpr std::uint32_t kOverflow = 0x477FF000U;  // 65520: half-way between the largest number and the next
  constexpr std::uint32_t kNormal = 0x38800000U;    // 2^-14
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16U) & 0x8000U);
  std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > kInfinity) return static_cast<std::uint16_t>(sign | 0x7E00U);
  if (magnitude >= kOverflow) return static_cast<std::uint16_t>(sign | 0x7C00U);
  if (magnitude < kNormal) {  // the sum's last place is 2^-24, so that adding rounds
    const float sum = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(sum) - 0x3F000000U));
  }
  magnitude += 0xFFFU + ((magnitude >> 13U) & 1U);
  return static_cast<std::uint16_t>(sign | ((magnitude - (112U << 23U)) >> 13U));
}

std::uint16_t float_to_bfloat(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>((bits >> 16U) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U);
}

float bfloat_to_float(std::uint16_t bfloat) { return std::bit_cast<float>(static_cast<std::uint32_t>(bfloat) << 16U); }

}  // namespace

void to_float(FloatFormat format, std::span<const std::byte> bytes, std::span<float> out) {
  QAT_CHECK(bytes.size() == out.size() * static_cast<std::size_t>(bytes_of(format)), "a number for each value");
  if (format == FloatFormat::kFloat32) {
    if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
    return;
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes.data() + 2 * i, sizeof bits);
    out[i] = format == FloatFormat::kFloat16 ? half_to_float(bits) : bfloat_to_float(bits);
  }
}

void from_float(FloatFormat format, std::span<const float> values, std::span<std::byte> bytes) {
  QAT_CHECK(bytes.size() == values.size() * static_cast<std::size_t>(bytes_of(format)), "a number for each value");
  if (format == FloatFormat::kFloat32) {
    if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return;
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t bits = format == FloatFormat::kFloat16 ? float_to_half(values[i]) : float_to_bfloat(values[i]);
    std::memcpy(bytes.data() + 2 * i, &bits, sizeof bits);
  }
}

}  // namespace qat
