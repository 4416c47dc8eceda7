#include "kernels/optim/adamw_flat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/optim/adamw_flat_cpu.h"
#include "kernels/optim/adamw_segments.h"
#include "tests/support/kernel_data.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using ::testing::HasSubstr;

struct State {
  std::vector<float> p, g, m, v;

  explicit State(std::int64_t n, unsigned seed = 1)
      : p(test::random_grid(1, n, seed).values),
        g(test::random_grid(1, n, seed + 1).values),
        m(static_cast<std::size_t>(n)),
        v(static_cast<std::size_t>(n)) {}
  void step(const AdamWStep& with, const Exec& exec = {}) { adamw_flat(exec, p, g, m, v, with); }
  ::testing::AssertionResult equals(const State& other) const {
    if (auto same = test::same_bits(p, other.p); !same) return same << " (p)";
    if (auto same = test::same_bits(m, other.m); !same) return same << " (m)";
    return test::same_bits(v, other.v);
  }
};

TEST(AdamW, FirstTwoStepsAreAsComputedByHand) {
  State state(1);
  state.p = {1.0F};
  state.g = {0.5F};
  // Betas that fp32 holds exactly. m = 0.25, v = 0.0625; unbiased 0.5 and 0.25: the step is lr * 0.5 / 0.5.
  AdamWStep step{.learning_rate = 0.1F, .beta1 = 0.5F, .beta2 = 0.75F, .step = 1};
  state.step(step);
  EXPECT_FLOAT_EQ(state.m[0], 0.25F);
  EXPECT_FLOAT_EQ(state.v[0], 0.0625F);
  EXPECT_FLOAT_EQ(state.p[0], 0.9F);
  // g = -1: m = 0.5 * 0.25 - 0.5 = -0.375, v = 0.75 * 0.0625 + 0.25 = 0.296875;
  // unbiased -0.375 / 0.75 = -0.5 and 0.296875 / 0.4375 = 0.67857143, whose root is 0.82375447.
  state.g = {-1.0F};
  step.step = 2;
  state.step(step);
  EXPECT_FLOAT_EQ(state.m[0], -0.375F);
  EXPECT_FLOAT_EQ(state.v[0], 0.296875F);
  EXPECT_FLOAT_EQ(state.p[0], 0.9F + 0.1F * 0.5F / 0.82375447F);
}

TEST(AdamW, DecaysParametersApartFromTheGradient) {
  State state(1);
  state.p = {2.0F};
  state.g = {0.0F};
  state.step({.learning_rate = 0.1F, .weight_decay = 0.25F, .step = 1});
  EXPECT_FLOAT_EQ(state.p[0], 2.0F * (1.0F - 0.1F * 0.25F));
  EXPECT_EQ(state.m[0], 0.0F);  // an L2 penalty would have entered the moments
  EXPECT_EQ(state.v[0], 0.0F);

  state.p = {1.0F};
  state.g = {0.5F};
  state.step({.learning_rate = 0.1F, .weight_decay = 0.1F, .step = 1});
  EXPECT_FLOAT_EQ(state.p[0], 1.0F - 0.1F * (1.0F + 0.1F));
}

TEST(AdamW, EpsBoundsTheStepOfTinyGradients) {
  State state(1);
  state.p = {0.0F};
  state.g = {1e-8F};  // the unbiased root is 1e-8 too, as large as eps
  state.step({.learning_rate = 1.0F, .eps = 1e-8F, .step = 1});
  EXPECT_NEAR(state.p[0], -0.5F, 1e-5F);
}

TEST(AdamW, ScalesTheGradientFirst) {
  State scaled(100), plain(100);
  for (float& g : plain.g) g *= 0.125F;
  scaled.step({.learning_rate = 0.01F, .gradient_scale = 0.125F});
  plain.step({.learning_rate = 0.01F});
  EXPECT_TRUE(scaled.equals(plain));
}

TEST(AdamW, FollowsTheFormulaInDoubleOverManySteps) {
  State state(37);
  std::vector<double> p(state.p.begin(), state.p.end()), m(37), v(37);
  for (int t = 1; t <= 60; ++t) {
    state.g = test::random_grid(1, 37, 100U + static_cast<unsigned>(t)).values;
    const AdamWStep step{
        .learning_rate = 0.01F, .beta2 = 0.95F, .weight_decay = 0.1F, .gradient_scale = 0.7F, .step = t};
    state.step(step);
    const double b1 = step.beta1, b2 = step.beta2;
    for (std::size_t i = 0; i < 37; ++i) {
      const double g = static_cast<double>(state.g[i]) * step.gradient_scale;
      m[i] = b1 * m[i] + (1 - b1) * g;
      v[i] = b2 * v[i] + (1 - b2) * g * g;
      const double direction = m[i] / (1 - std::pow(b1, t)) / (std::sqrt(v[i] / (1 - std::pow(b2, t))) + step.eps);
      p[i] -= step.learning_rate * (direction + step.weight_decay * p[i]);
    }
  }
  for (std::size_t i = 0; i < 37; ++i) {
    EXPECT_NEAR(state.p[i], p[i], 2e-6 * (1.0 + std::abs(p[i])));
    EXPECT_NEAR(state.m[i], m[i], 2e-6 * (1.0 + std::abs(m[i])));
    EXPECT_NEAR(state.v[i], v[i], 2e-6 * (1.0 + std::abs(v[i])));
  }
}

TEST(AdamW, GivesTheSameBitsForAnyCutAndInstructionSet) {
  constexpr std::int64_t kCount = 50003;
  State whole(kCount);
  const AdamWStep step{.learning_rate = 0.02F, .weight_decay = 0.1F, .step = 3};
  State threads = whole, pieces = whole, portable = whole;
  whole.step(step);

  const test::ThreadsParallelFor parallel(3);
  threads.step(step, Exec{.parallel = &parallel});
  EXPECT_TRUE(threads.equals(whole));

  for (const auto& [begin, count] : {std::pair(0UL, 17UL), std::pair(17UL, 30000UL), std::pair(30017UL, 19986UL)})
    adamw_flat(Exec{}, std::span(pieces.p).subspan(begin, count), std::span(pieces.g).subspan(begin, count),
               std::span(pieces.m).subspan(begin, count), std::span(pieces.v).subspan(begin, count), step);
  EXPECT_TRUE(pieces.equals(whole));

  adamw_flat_cpu(Exec{}, {portable.p, portable.g, portable.m, portable.v}, step, CpuIsa::kPortable);
  EXPECT_TRUE(portable.equals(whole));
}

TEST(AdamW, RefusesLengthsThatDifferAndStepZero) {
  State state(4);
  std::vector<float> three(3);
  EXPECT_THAT(test::error_of(ErrorKind::kInternal, [&] { adamw_flat(Exec{}, state.p, three, state.m, state.v, {}); }),
              HasSubstr("on 4 parameters got 3 gradients"));
  EXPECT_THAT(test::error_of(ErrorKind::kInternal, [&] { state.step({.step = 0}); }), HasSubstr("from 1, not 0"));
}

TEST(AdamWSegments, AreAsManyCallsOfAdamWAndTouchNothingElse) {
  State together(1000, 9), apart(1000, 9);
  const std::vector<AdamWSegment> segments{
      {.offset = 3, .elems = 200, .step = {.learning_rate = 0.1F, .weight_decay = 0.1F, .step = 2}},
      {.offset = 203, .elems = 0, .step = {}},
      {.offset = 203, .elems = 1, .step = {.learning_rate = 0.2F, .step = 7}},
      {.offset = 500, .elems = 500, .step = {.learning_rate = 0.3F, .gradient_scale = 0.5F, .step = 1}}};
  adamw_segments(Exec{}, together.p, together.g, together.m, together.v, segments);
  for (const AdamWSegment& segment : segments) {
    const auto at = static_cast<std::size_t>(segment.offset), count = static_cast<std::size_t>(segment.elems);
    adamw_flat(Exec{}, std::span(apart.p).subspan(at, count), std::span(apart.g).subspan(at, count),
               std::span(apart.m).subspan(at, count), std::span(apart.v).subspan(at, count), segment.step);
  }
  EXPECT_TRUE(together.equals(apart));
  const State untouched(1000, 9);
  for (const std::size_t i : {0UL, 2UL, 204UL, 499UL}) EXPECT_EQ(together.p[i], untouched.p[i]) << i;
  EXPECT_NE(together.p[203], untouched.p[203]);
}

TEST(AdamWSegments, RefusesWhatOverlapsFallsOrEndsOutside) {
  State state(10);
  const auto refusal = [&](std::vector<AdamWSegment> segments) {
    return test::error_of(ErrorKind::kInternal,
                          [&] { adamw_segments(Exec{}, state.p, state.g, state.m, state.v, segments); });
  };
  EXPECT_THAT(refusal({{.offset = 0, .elems = 4, .step = {}}, {.offset = 3, .elems = 1, .step = {}}}),
              HasSubstr("1 elements at 3: segments rise"));
  EXPECT_THAT(refusal({{.offset = 8, .elems = 3, .step = {}}}), HasSubstr("3 elements at 8"));
  EXPECT_THAT(refusal({{.offset = 0, .elems = 1, .step = {.step = 0}}}), HasSubstr("from 1, not 0"));
  adamw_segments(Exec{}, state.p, state.g, state.m, state.v, {});
  EXPECT_TRUE(state.equals(State(10)));
}

// The order of adamw_flat.h, written down naively.
double sum_squares_by_hand(std::span<const float> x) {
  std::vector<double> sums(128);
  for (std::size_t i = 0; i < x.size(); ++i) sums[i % 128] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  while (sums.size() > 1) {
    std::vector<double> pairs;
    for (std::size_t i = 0; i < sums.size(); i += 2) pairs.push_back(sums[i] + sums[i + 1]);
    sums = pairs;
  }
  return sums[0];
}

TEST(BlockSumSquares, SumsEachBlockInDouble) {
  // 1e6 squared swallows 1 when added in fp32; in double nothing is lost.
  const std::vector<float> x{1.0F, 2.0F, 3.0F, 1e6F, 1.0F, 1.0F, 0.5F};
  std::vector<double> partial(3);
  block_sum_squares(Exec{}, x, 3, partial);
  EXPECT_EQ(partial, (std::vector<double>{14.0, 1e12 + 2.0, 0.25}));
}

TEST(BlockSumSquares, KeepsThePromisedOrderToTheBit) {
  const std::vector<float> values = test::random_grid(1, 10007, 5).values;
  for (const std::size_t block : {1, 7, 64, 128, 1000, 1024, 2600, 20000}) {
    std::vector<double> want;
    for (std::size_t at = 0; at < values.size(); at += block)
      want.push_back(sum_squares_by_hand(std::span(values).subspan(at, std::min(block, values.size() - at))));
    std::vector<double> got(want.size(), -1.0);
    block_sum_squares(Exec{}, values, static_cast<std::int64_t>(block), got);
    EXPECT_EQ(got, want) << block;
  }
}

TEST(BlockSumSquares, DoesNotDependOnHowTheWorkIsCut) {
  const std::vector<float> x = test::random_grid(1, 200000, 6).values;
  std::vector<double> alone(196), cut(196);
  block_sum_squares(Exec{}, x, 1024, alone);
  for (const int threads : {2, 3, 7}) {
    const test::ThreadsParallelFor parallel(threads);
    block_sum_squares(Exec{.parallel = &parallel}, x, 1024, cut);
    EXPECT_EQ(cut, alone);
  }
  // Pieces of the range at multiples of the block, as ranks hold them.
  std::vector<double> pieces(196);
  block_sum_squares(Exec{}, std::span(x).first(1024 * 101), 1024, std::span(pieces).first(101));
  block_sum_squares(Exec{}, std::span(x).subspan(1024 * 101), 1024, std::span(pieces).subspan(101));
  EXPECT_EQ(pieces, alone);
}

TEST(BlockSumSquares, RefusesTheWrongNumberOfSums) {
  const std::vector<float> x(10);
  std::vector<double> partial(2);
  EXPECT_THAT(test::error_of(ErrorKind::kInternal, [&] { block_sum_squares(Exec{}, x, 4, partial); }),
              HasSubstr("2 sums for 10 elements in blocks of 4"));
}

}  // namespace
}  // namespace qat::kernels
