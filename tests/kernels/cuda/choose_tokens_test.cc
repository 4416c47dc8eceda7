// A GPU chooses the very tokens that a CPU chooses.
#include "kernels/sampling/choose_tokens.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::DeviceBuffer;
using test::Grid;

struct Chosen {
  std::vector<std::int64_t> tokens, finite;
  std::vector<std::uint8_t> seen;
  friend bool operator==(const Chosen&, const Chosen&) = default;
};

std::vector<std::uint8_t> seen_of(std::int64_t rows, std::int64_t classes, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<std::uint8_t> seen(static_cast<std::size_t>(rows * classes));
  for (std::uint8_t& mark : seen) mark = generator() % 5 == 0 ? 1 : 0;
  return seen;
}
// Some of them 0 and 1 - 2^-53.
std::vector<std::int64_t> draws_of(std::int64_t rows, unsigned seed) {
  std::mt19937_64 generator(seed);
  std::vector<std::int64_t> draws(static_cast<std::size_t>(rows));
  for (std::int64_t& draw : draws) draw = static_cast<std::int64_t>(generator() >> 11U);
  draws[0] = 0;
  draws.back() = (std::int64_t{1} << 53) - 1;
  return draws;
}

// Of the first `classes` columns.
Chosen on_cpu(const Grid<float>& logits, std::int64_t classes, const SamplingOptions& options,
              std::vector<std::uint8_t> seen, const std::vector<std::int64_t>& draws) {
  const auto rows = static_cast<std::size_t>(logits.rows);
  Chosen chosen{std::vector<std::int64_t>(rows), std::vector<std::int64_t>(rows), std::move(seen)};
  choose_tokens({}, {logits.values.data(), logits.rows, classes, logits.cols, DType::kFloat32}, options,
                {chosen.seen.data(), logits.rows, classes}, draws, chosen.tokens, chosen.finite);
  return chosen;
}
Chosen on_gpu(const Grid<float>& logits, std::int64_t classes, const SamplingOptions& options,
              const std::vector<std::uint8_t>& seen, const std::vector<std::int64_t>& draws) {
  const DeviceBuffer<float> values(logits.values);
  const DeviceBuffer<std::uint8_t> marks(seen);
  const DeviceBuffer<std::int64_t> device_draws(draws), tokens(logits.rows), finite(logits.rows);
  choose_tokens(test::cuda_exec(), {values.data(), logits.rows, classes, logits.cols, DType::kFloat32}, options,
                marks.matrix(logits.rows, classes), device_draws.span(), tokens.span(), finite.span());
  return {tokens.download(), finite.download(), marks.download()};
}

const std::vector<SamplingOptions>& all_options() {
  static const std::vector<SamplingOptions> options = {
      {},
      {.repetition_penalty = 1.7},
      {.temperature = 1.0},
      {.temperature = 0.1},
      {.temperature = 1e-3},
      {.temperature = 50.0},
      {.temperature = 1.0, .top_k = 1},
      {.temperature = 1.0, .top_k = 40},
      {.temperature = 3.0, .top_k = 1000000},
      {.temperature = 1.0, .top_p = 0.9},
      {.temperature = 20.0, .top_p = 0.3},
      {.temperature = 1.0, .top_p = 1e-6},
      {.temperature = 1.0, .top_p = 0.999999},
      {.temperature = 2.0, .top_k = 100, .top_p = 0.8, .repetition_penalty = 1.3},
  };
  return options;
}

std::string name_of(const SamplingOptions& options) {
  return "T " + std::to_string(options.temperature) + ", k " + std::to_string(options.top_k) + ", p " +
         std::to_string(options.top_p) + ", r " + std::to_string(options.repetition_penalty);
}

TEST(ChooseTokensCuda, ChoosesWhatACpuChooses) {
  struct Shape {
    std::int64_t rows, cols, classes;
  };
  unsigned seed = 0;
  for (const Shape& shape : {Shape{1, 1, 1}, Shape{3, 7, 5}, Shape{5, 257, 257}, Shape{64, 1024, 1000},
                             Shape{9, 4099, 4099}, Shape{33, 50304, 50257}, Shape{2, 200003, 200001}})
    for (const SamplingOptions& options : all_options()) {
      SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.classes << ", " << name_of(options));
      Grid<float> logits = test::random_grid(shape.rows, shape.cols, ++seed);
      for (float& z : logits.values) z *= 3.0F;
      const auto seen = seen_of(shape.rows, shape.classes, seed);
      const auto draws = draws_of(shape.rows, seed);
      EXPECT_EQ(on_gpu(logits, shape.classes, options, seen, draws),
                on_cpu(logits, shape.classes, options, seen, draws));
    }
}

// Few different logits, zeros of both signs among them: ties at every limit.
TEST(ChooseTokensCuda, TiesFallAsOnACpu) {
  for (const std::int64_t classes : {31, 3000, 50257}) {
    std::mt19937 generator(4);
    Grid<float> logits(40, classes);
    for (float& z : logits.values) z = static_cast<float>(static_cast<int>(generator() % 5) - 2) * 0.5F;
    for (std::size_t i = 0; i < logits.values.size(); i += 7) logits.values[i] = -0.0F;
    for (std::int64_t c = 0; c < classes; ++c) logits.at(1, c) = 2.5F;  // all the same
    for (const SamplingOptions& options : all_options()) {
      SCOPED_TRACE(testing::Message() << classes << ", " << name_of(options));
      const auto seen = seen_of(40, classes, 5);
      const auto draws = draws_of(40, 6);
      EXPECT_EQ(on_gpu(logits, classes, options, seen, draws), on_cpu(logits, classes, options, seen, draws));
    }
  }
}

TEST(ChooseTokensCuda, RowsThatAreNotFiniteAreToldFromOthers) {
  for (const SamplingOptions& options : all_options()) {
    Grid<float> logits = test::random_grid(5, 3001, 8);
    logits.at(1, 3000) = NAN;
    logits.at(2, 0) = INFINITY;
    logits.at(3, 1500) = -INFINITY;
    const auto seen = seen_of(5, 3001, 9);
    const auto draws = draws_of(5, 10);
    const Chosen got = on_gpu(logits, 3001, options, seen, draws);
    EXPECT_EQ(got, on_cpu(logits, 3001, options, seen, draws)) << name_of(options);
    EXPECT_EQ(got.finite, (std::vector<std::int64_t>{1, 0, 0, 0, 1}));
  }
}

}  // namespace
}  // namespace qat::kernels
