// The arithmetic of choose_tokens.h: nothing but IEEE operations and whole numbers, so that CPUs and GPUs agree to the
// bit.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "kernels/common/philox.h"

namespace qat::kernels {

constexpr int kWeightBits = 43;  // a weight is at most 2^43
constexpr int kDrawBits = 53;

// round(2^43 exp(x)), x <= 0. exp(x) = 2^k exp(r), |r| <= ln 2 / 2, where 13 terms of the series are exact to double.
QAT_HOST_DEVICE constexpr std::uint64_t sampling_weight(double x) {
  if (!(x > -31.0)) return 0;
  constexpr double kLn2High = 0x1.62E42FEEp-1, kLn2Low = 0x1.A39EF35793C76p-33;  // k kLn2High is exact
  const double shifted = x * std::numbers::log2e + 64.5;                         // positive: truncation is floor
  const int k = static_cast<int>(shifted) - 64;
  const double r = (x - k * kLn2High) - k * kLn2Low;
  double sum = 1.0;
  for (int n = 13; n >= 1; --n) sum = 1.0 + sum * r * (1.0 / n);
  const double scale = std::bit_cast<double>(static_cast<std::uint64_t>(1023 + kWeightBits + k) << 52U);
  return static_cast<std::uint64_t>(sum * scale + 0.5);  // NOLINT(bugprone-incorrect-roundings): it is not negative
}

struct Share {
  std::uint64_t whole;  // floor
  bool rest;            // whether there is something left

  QAT_HOST_DEVICE constexpr std::uint64_t up() const { return whole + (rest ? 1 : 0); }
};
// part / 2^53 of `all`; part <= 2^53. Exact.
QAT_HOST_DEVICE constexpr Share share_of(std::uint64_t part, std::uint64_t all) {
  constexpr std::uint64_t kLow = 0xFFFFFFFFU;
  const std::uint64_t low_low = (part & kLow) * (all & kLow), low_high = (part & kLow) * (all >> 32U);
  const std::uint64_t high_low = (part >> 32U) * (all & kLow), high_high = (part >> 32U) * (all >> 32U);
  const std::uint64_t middle = (low_low >> 32U) + (low_high & kLow) + (high_low & kLow);
  const std::uint64_t low = (low_low & kLow) | (middle << 32U);
  const std::uint64_t high = high_high + (low_high >> 32U) + (high_low >> 32U) + (middle >> 32U);
  return {.whole = (high << (64 - kDrawBits)) | (low >> kDrawBits),
          .rest = (low & ((std::uint64_t{1} << kDrawBits) - 1)) != 0};
}

// p of top-p as a share.
inline std::uint64_t share_bits(double p) { return static_cast<std::uint64_t>(std::ceil(std::ldexp(p, kDrawBits))); }

// A logit as it is compared: penalized if the text has the token, and without a negative zero.
QAT_HOST_DEVICE constexpr float compared_logit(float z, bool seen, float penalty) {
  if (seen) z = z > 0.0F ? z / penalty : z * penalty;
  return z == 0.0F ? 0.0F : z;
}

}  // namespace qat::kernels
