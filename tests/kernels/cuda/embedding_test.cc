#include "kernels/embedding/embedding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <tuple>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::DeviceBuffer;
using test::DeviceFloats;
using test::Grid;

struct Case {
  std::int64_t batch, length, cols, vocabulary;
  double common;  // share of the tokens that are token 1: runs over many windows
};
constexpr Case kCases[] = {{1, 1, 1, 1, 0.0},       {3, 1, 5, 4, 0.0},         {11, 3, 17, 2, 0.0},
                           {4, 16, 768, 5003, 0.0}, {8, 64, 768, 5003, 0.3},   {5, 40, 1600, 97, 0.5},
                           {64, 32, 64, 1, 0.0},    {300, 64, 8, 70001, 0.95}, {2, 65, 2304, 7, 0.0}};

class EmbeddingCuda : public ::testing::TestWithParam<std::tuple<Case, DType>> {};

std::vector<std::int64_t> random_tokens(const Case& c) {
  std::mt19937 generator(1);
  std::bernoulli_distribution is_common(c.common);
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(c.batch * c.length));
  for (std::int64_t& token : tokens)
    token = is_common(generator) ? std::min<std::int64_t>(1, c.vocabulary - 1)
                                 : static_cast<std::int64_t>(generator()) % c.vocabulary;
  return tokens;
}

TEST_P(EmbeddingCuda, ForwardIsTheCpusBits) {
  const auto [c, dtype] = GetParam();
  const std::int64_t rows = c.batch * c.length;
  const std::vector<std::int64_t> tokens = random_tokens(c);
  const Grid<float> table = test::random_grid(c.vocabulary, c.cols, 2);
  const Grid<float> positions = test::random_grid(c.length + 2, c.cols, 3);
  Grid<float> want(rows, c.cols);
  embed({}, tokens, c.length, table.view(), positions.view(), want.view());
  const DeviceBuffer<std::int64_t> device_tokens(tokens);
  const DeviceBuffer<float> device_table(table.values), device_positions(positions.values);
  const DeviceFloats x(rows, c.cols, dtype);
  embed(test::cuda_exec(), device_tokens.span(), c.length, device_table.matrix(c.vocabulary, c.cols),
        device_positions.matrix(c.length + 2, c.cols), x.view());
  EXPECT_TRUE(test::same_bits(x.download(), test::rounded_to(want.values, dtype)));
}

TEST_P(EmbeddingCuda, BackwardAgreesWithTheCpuAndRepeats) {
  const auto [c, dtype] = GetParam();
  const std::int64_t rows = c.batch * c.length;
  const std::vector<std::int64_t> tokens = random_tokens(c);
  Grid<float> dx = test::random_grid(rows, c.cols, 4);
  dx.values = test::rounded_to(dx.values, dtype);
  const Grid<float> before = test::random_grid(c.vocabulary, c.cols, 5);
  Grid<float> want_tokens = before;
  Grid<float> want_positions(c.length + 2, c.cols);
  embed_backward({}, dx.view(), tokens, c.length, want_tokens.view(), want_positions.view());
  // What a sum's rounding can be: its terms' magnitudes, added.
  Grid<float> magnitudes = dx;
  for (float& value : magnitudes.values) value = std::abs(value);
  Grid<float> token_magnitudes(c.vocabulary, c.cols);
  embed_backward({}, magnitudes.view(), tokens, c.length, token_magnitudes.view(), {});

  const DeviceBuffer<std::int64_t> device_tokens(tokens);
  const DeviceFloats device_dx(dx.values, rows, c.cols, dtype);
  std::vector<float> first;
  for (int time = 0; time < 2; ++time) {
    const DeviceBuffer<float> token_gradient(before.values), position_gradient((c.length + 2) * c.cols);
    // Each by itself once, together once: the same sums.
    if (time == 0) {
      embed_backward(test::cuda_exec(), device_dx.view(), device_tokens.span(), c.length,
                     token_gradient.matrix(c.vocabulary, c.cols), position_gradient.matrix(c.length + 2, c.cols));
    } else {
      embed_backward(test::cuda_exec(), device_dx.view(), device_tokens.span(), c.length,
                     token_gradient.matrix(c.vocabulary, c.cols), {});
      embed_backward(test::cuda_exec(), device_dx.view(), device_tokens.span(), c.length, {},
                     position_gradient.matrix(c.length + 2, c.cols));
    }
    EXPECT_TRUE(test::same_bits(position_gradient.download(), want_positions.values)) << "same order as the CPU";
    const std::vector<float> got = token_gradient.download();
    if (time == 1) {
      EXPECT_TRUE(test::same_bits(got, first)) << "not repeatable";
      continue;
    }
    first = got;
    int failures = 0;
    for (std::size_t i = 0; i < got.size() && failures < 5; ++i) {
      const float tolerance = 1e-5F * (token_magnitudes.values[i] + std::abs(before.values[i]));
      if (std::abs(got[i] - want_tokens.values[i]) <= tolerance) continue;
      ++failures;
      ADD_FAILURE() << "token " << static_cast<std::int64_t>(i) / c.cols << " column "
                    << static_cast<std::int64_t>(i) % c.cols << " is " << got[i] << " instead of "
                    << want_tokens.values[i] << " (was " << before.values[i] << ")";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, EmbeddingCuda,
                         ::testing::Combine(::testing::ValuesIn(kCases),
                                            ::testing::Values(DType::kFloat32, DType::kBFloat16)),
                         [](const auto& info) {
                           const auto c = std::get<0>(info.param);
                           const DType dtype = std::get<1>(info.param);
                           return std::to_string(c.batch) + "x" + std::to_string(c.length) + "x" +
                                  std::to_string(c.cols) + "of" + std::to_string(c.vocabulary) +
                                  (dtype == DType::kFloat32 ? "Fp32" : "Bf16");
                         });

}  // namespace
}  // namespace qat::kernels
