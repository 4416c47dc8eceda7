// Queries and kept tokens for the tests of cached_attention, on CPUs and GPUs alike.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/attention/cached_attention.h"
#include "tests/support/kernel_data.h"

namespace qat::test {

// Random tokens as codes with scales, and as the floats that these stand for; sequences of different lengths. What lies
// behind a sequence's length is NaN, or codes with the scale NaN.
struct AttentionCase {
  std::int64_t heads, capacity;
  Grid<float> q;
  Grid<std::int8_t> codes;
  Grid<float> values;
  std::vector<float> scales;
  std::vector<std::int64_t> lengths;

  AttentionCase(std::int64_t sequences, std::int64_t heads_in, std::int64_t head_width, std::int64_t capacity_in)
      : heads(heads_in),
        capacity(capacity_in),
        q(random_grid(sequences, heads_in * head_width, 1)),
        codes(random_codes(sequences * capacity_in, 2 * heads_in * head_width, 2)),
        values(codes.rows, codes.cols),
        scales(random_factors(2 * codes.rows, 3)) {
    for (std::int64_t b = 0; b < sequences; ++b) lengths.push_back(b == 0 ? capacity : 1 + (b * 7) % capacity);
    for (float& scale : scales) scale *= 0.01F;
    for (std::int64_t row = 0; row < codes.rows; ++row) {
      const bool counts = row % capacity < lengths[static_cast<std::size_t>(row / capacity)];
      for (std::int64_t half = 0; half < 2; ++half) {
        float& scale = scales[static_cast<std::size_t>(2 * row + half)];
        if (!counts) scale = std::nanf("");
        for (std::int64_t c = 0; c < q.cols; ++c)
          values.at(row, half * q.cols + c) = scale * static_cast<float>(codes.at(row, half * q.cols + c));
      }
    }
  }

  kernels::KeptTokens coded() const {
    return {
        .data = codes.values.data(), .dtype = DType::kInt8, .scales = scales, .capacity = capacity, .lengths = lengths};
  }
  kernels::KeptTokens floats() const {
    return {.data = values.values.data(), .scales = {}, .capacity = capacity, .lengths = lengths};
  }
  Grid<float> on_cpu(const kernels::KeptTokens& kept) const {
    Grid<float> y(q.rows, q.cols);
    kernels::cached_attention({}, q.view(), kept, heads, y.view());
    return y;
  }
  float largest_value() const {
    float largest = 0.0F;
    for (const float value : values.values)
      if (!std::isnan(value)) largest = std::max(largest, std::abs(value));
    return largest;
  }
  // One of the sequences, in a cache with more room.
  AttentionCase only(std::int64_t row, std::int64_t room) const {
    AttentionCase one(1, heads, q.cols / heads, room);
    std::copy_n(q.values.begin() + row * q.cols, q.cols, one.q.values.begin());
    std::copy_n(codes.values.begin() + row * capacity * codes.cols, capacity * codes.cols, one.codes.values.begin());
    std::copy_n(scales.begin() + 2 * row * capacity, 2 * capacity, one.scales.begin());
    one.lengths = {lengths[static_cast<std::size_t>(row)]};
    return one;
  }
};

}  // namespace qat::test
