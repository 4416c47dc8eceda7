#include "src/base/rng.h"

#include <cmath>
#include <initializer_list>

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

}  // namespace

kernels::RngKey rng_key(std::uint64_t seed, RngPurpose purpose, std::uint64_t step, std::uint64_t micro_batch,
                        std::uint64_t slot) {
  // Both halves depend on everything: 128 bits, so that two uses never share a stream.
  const auto tag = static_cast<std::uint64_t>(purpose);
  return {.seed = hash(0x5EED, {seed, tag, step, micro_batch, slot}),
          .stream = hash(0x57AE, {seed, tag, step, micro_batch, slot})};
}

std::uint64_t name_slot(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return hash;
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
  kernels::fill_normal(key, first, stddev, out);
}

}  // namespace qat
