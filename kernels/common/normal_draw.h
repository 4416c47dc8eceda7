// Normal random numbers from a block of Philox (Box & Muller, Ann. Math. Stat. 29, 1958): in double, with nothing but
// IEEE operations and no library functions but the square root, so that every CPU and GPU draws the same bits.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "kernels/common/philox.h"

namespace qat::kernels {

// ln(x) for finite x > 0, to about 1e-16: x = 2^e m with m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh((m - 1) / (m + 1)).
QAT_HOST_DEVICE constexpr double natural_log(double x) {
  const auto bits = std::bit_cast<std::uint64_t>(x);
  int exponent = static_cast<int>(bits >> 52) - 1022;
  double m = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFFU) | 0x3FE0000000000000U);  // [1/2, 1)
  if (m < std::numbers::sqrt2 / 2) {
    m *= 2;
    --exponent;
  }
  const double s = (m - 1) / (m + 1);  // |s| <= 0.1716
  const double s2 = s * s;
  double sum = 0.0;
  for (int k = 23; k >= 1; k -= 2) sum = sum * s2 + 1.0 / k;  // s^2/(2k+1) series; the next term is below 1e-18
  return 2 * s * sum + exponent * std::numbers::ln2;
}

struct CosSin {
  double cos, sin;
};

// Of 2 pi turn / 2^32. Reduced exactly to [0, pi/4], where twelve terms of the series are exact to double.
QAT_HOST_DEVICE constexpr CosSin cos_sin(std::uint32_t turn) {
  const std::uint32_t quadrant = turn >> 30;
  std::uint32_t rest = turn & 0x3FFFFFFFU;  // within the quadrant, of 2^30
  const bool upper = rest > 0x20000000U;    // beyond 45 degrees: cos and sin change places
  if (upper) rest = 0x40000000U - rest;
  const double angle = static_cast<double>(rest) * (std::numbers::pi / 2 * 0x1p-30);
  const double a2 = angle * angle;
  double c = 1.0, s = 1.0;
  for (int k = 11; k >= 1; --k) {
    c = 1.0 - c * a2 / ((2.0 * k - 1) * (2.0 * k));
    s = 1.0 - s * a2 / ((2.0 * k) * (2.0 * k + 1));
  }
  s *= angle;
  const double x = upper ? s : c, y = upper ? c : s;
  switch (quadrant) {
    case 0:
      return {x, y};
    case 1:
      return {-y, x};
    case 2:
      return {-x, -y};
    default:
      return {y, -x};
  }
}

constexpr int kNormalDraws = 4;  // of one block

// out[i], i below kNormalDraws: mean 0; |out[i]| <= 6.67 stddev.
QAT_HOST_DEVICE inline void normal_draws(const Philox4& block, double stddev, float* out) {
  for (int pair = 0; pair < 2; ++pair) {
    const double u = (static_cast<double>(block.v[2 * pair]) + 1.0) * 0x1p-32;  // (0, 1]: its logarithm is finite
    const double radius = std::sqrt(-2.0 * natural_log(u));
    const auto [c, s] = cos_sin(block.v[2 * pair + 1]);
    out[2 * pair] = static_cast<float>(stddev * (radius * c));
    out[2 * pair + 1] = static_cast<float>(stddev * (radius * s));
  }
}

}  // namespace qat::kernels
