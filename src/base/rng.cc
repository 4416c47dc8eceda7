#include "src/base/rng.h"

#include <array>
#include <bit>
#include <cmath>
#include <initializer_list>
#include <numbers>
#include <utility>

#include "kernels/common/uniform_fill.h"

namespace qat {
namespace {

// The finalizer of SplitMix64 (Steele et al., OOPSLA'14): a bijection in which every input bit changes every output
// bit.
constexpr std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

// Position-dependent, since every word goes through a further round: (a, b) and (b, a) give different values.
constexpr std::uint64_t hash(std::uint64_t start, std::initializer_list<std::uint64_t> words) {
  std::uint64_t state = mix(start);
  for (const std::uint64_t word : words) state = mix(state + 0x9E3779B97F4A7C15U + mix(word + 0x9E3779B97F4A7C15U));
  return state;
}

// ln(x) for finite x > 0, to about 1e-16: x = 2^e m with m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh((m - 1) / (m + 1)).
double natural_log(double x) {
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
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

// (cos, sin) of 2 pi turn / 2^32. Reduced exactly to [0, pi/4], where twelve terms of the series are exact to double.
std::pair<double, double> cos_sin(std::uint32_t turn) {
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
  if (upper) std::swap(c, s);
  switch (quadrant) {
    case 0:
      return {c, s};
    case 1:
      return {-s, c};
    case 2:
      return {-c, -s};
    default:
      return {s, -c};
  }
}

// The four normal draws of one block, of standard deviation 1.
std::array<double, 4> normal_block(kernels::RngKey key, std::uint64_t block) {
  const kernels::Philox4 words = kernels::philox(key, block);
  std::array<double, 4> draws{};
  for (std::size_t pair = 0; pair < 2; ++pair) {
    const double u = (static_cast<double>(words.v[2 * pair]) + 1.0) * 0x1p-32;  // (0, 1]: its logarithm is finite
    const double radius = std::sqrt(-2.0 * natural_log(u));
    const auto [c, s] = cos_sin(words.v[2 * pair + 1]);
    draws[2 * pair] = radius * c;
    draws[2 * pair + 1] = radius * s;
  }
  return draws;
}

}  // namespace

kernels::RngKey rng_key(std::uint64_t seed, RngPurpose purpose, std::uint64_t step, std::uint64_t micro_batch,
                        std::uint64_t slot) {
  // Both halves depend on everything: 128 bits, so that two uses never share a stream.
  const auto tag = static_cast<std::uint64_t>(purpose);
  return {.seed = hash(0x5EED, {seed, tag, step, micro_batch, slot}),
          .stream = hash(0x57AE, {seed, tag, step, micro_batch, slot})};
}

void fill_uniform(kernels::RngKey key, float low, float high, std::span<float> out, std::uint64_t first) {
  kernels::fill_uniform(key, first, out);
  // In double, and rounded once. Rounding may reach `high` itself, which is not in the range.
  const double range = static_cast<double>(high) - low;
  for (float& value : out) {
    const float scaled = static_cast<float>(low + range * value);
    value = scaled < high ? scaled : std::nextafter(high, low);
  }
}

void fill_normal(kernels::RngKey key, float stddev, std::span<float> out, std::uint64_t first) {
  std::array<double, 4> block{};
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t index = first + i;
    if (i == 0 || index % 4 == 0) block = normal_block(key, index / 4);
    out[i] = static_cast<float>(stddev * block[index % 4]);
  }
}

}  // namespace qat
