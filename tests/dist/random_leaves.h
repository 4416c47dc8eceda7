// Floats whose sum depends on its order, and the order that is promised.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/common/philox.h"

namespace qat::dist::testing {

// Any float magnitudes from 2^-20 to 2^20, both signs: sums depend on their order in nearly every element.
inline float random_float(int leaf, std::int64_t index) {
  const kernels::Philox4 draw =
      kernels::philox({.seed = 7, .stream = static_cast<std::uint64_t>(leaf)}, static_cast<std::uint64_t>(index));
  const float magnitude = std::ldexp(1.0F + kernels::uniform01(draw.v[0]), static_cast<int>(draw.v[1] % 40) - 20);
  return (draw.v[2] & 1U) != 0 ? magnitude : -magnitude;
}

// The promise of communicator.h, written down naively: the balanced tree over leaves [first, first + count).
inline float tree_of_random(int first, int count, std::int64_t index) {
  if (count == 1) return random_float(first, index);
  int left = 1;
  while (left * 2 < count) left *= 2;
  return tree_of_random(first, left, index) + tree_of_random(first + left, count - left, index);
}

inline std::vector<float> random_leaf(int leaf, std::int64_t elems) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < elems; ++i) values.push_back(random_float(leaf, i));
  return values;
}

// The first index at which the bits differ, or "equal".
inline std::string compare_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return "sizes " + std::to_string(a.size()) + " and " + std::to_string(b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<std::uint32_t>(a[i]) == std::bit_cast<std::uint32_t>(b[i])) continue;
    return "index " + std::to_string(i) + ": " + std::to_string(a[i]) + " and " + std::to_string(b[i]);
  }
  return "equal";
}

}  // namespace qat::dist::testing
