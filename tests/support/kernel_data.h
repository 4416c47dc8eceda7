// Matrices that own their elements, random inputs, and exact comparisons for the tests of kernels/.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/common/error.h"
#include "kernels/common/view.h"

namespace qat::test {

template <typename T>
struct Grid {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<T> values;

  Grid(std::int64_t rows_in, std::int64_t cols_in, T fill = T{})
      : rows(rows_in), cols(cols_in), values(static_cast<std::size_t>(rows_in * cols_in), fill) {}
  Grid(std::int64_t rows_in, std::int64_t cols_in, std::vector<T> values_in)
      : rows(rows_in), cols(cols_in), values(std::move(values_in)) {}
  Matrix<T> view() { return {values.data(), rows, cols}; }
  Matrix<const T> view() const { return {values.data(), rows, cols}; }
  T& at(std::int64_t r, std::int64_t c) { return values[static_cast<std::size_t>(r * cols + c)]; }
  const T& at(std::int64_t r, std::int64_t c) const { return values[static_cast<std::size_t>(r * cols + c)]; }
  std::span<const T> row(std::int64_t r) const { return std::span(values).subspan(r * cols, cols); }
};

// Normal values whose magnitude differs from row to row and from column to column.
inline Grid<float> random_grid(std::int64_t rows, std::int64_t cols, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Grid<float> x(rows, cols);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c)
      x.at(r, c) = normal(generator) * std::exp2(static_cast<float>(r % 5 - c % 3));
  return x;
}

inline std::vector<float> random_factors(std::int64_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(0.01F, 3.0F);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = uniform(generator);
  return values;
}

inline Grid<std::int8_t> random_codes(std::int64_t rows, std::int64_t cols, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int> codes(-127, 127);
  Grid<std::int8_t> grid(rows, cols);
  for (std::int8_t& code : grid.values) code = static_cast<std::int8_t>(codes(generator));
  return grid;
}

template <typename T>
Grid<T> transposed(const Grid<T>& grid) {
  Grid<T> result(grid.cols, grid.rows);
  for (std::int64_t r = 0; r < grid.rows; ++r)
    for (std::int64_t c = 0; c < grid.cols; ++c) result.at(c, r) = grid.at(r, c);
  return result;
}

// Equal bit for bit: tells -0 from +0, and one NaN equals another.
inline ::testing::AssertionResult same_bits(std::span<const float> got, std::span<const float> want) {
  if (got.size() != want.size())
    return ::testing::AssertionFailure() << got.size() << " values instead of " << want.size();
  for (std::size_t i = 0; i < got.size(); ++i) {
    const bool both_nan = std::isnan(got[i]) && std::isnan(want[i]);
    if (!both_nan && std::bit_cast<std::uint32_t>(got[i]) != std::bit_cast<std::uint32_t>(want[i]))
      return ::testing::AssertionFailure() << "element " << i << " is " << got[i] << " instead of " << want[i];
  }
  return ::testing::AssertionSuccess();
}

// The message of the error of this kind that body() throws; a failure if it throws none or another kind.
template <typename Body>
std::string error_of(ErrorKind kind, const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.kind()), static_cast<int>(kind)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace qat::test
