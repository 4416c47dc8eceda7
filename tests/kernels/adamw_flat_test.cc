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
  void step(const AdamWStep& with, const Exec& exec = {}, std::int32_t* refused = nullptr) {
    adamw_flat(exec, p, g, m, v, with, refused);
  }
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

TEST(AdamW, BetasThatFp32RoundsToOneKeepTheirMeaning) {
  for (const double beta : {0.99999999, 0.9999999999, 0.999999999999999}) {
    State state(11);
    std::vector<double> p(state.p.begin(), state.p.end()), m(11), v(11);
    for (int t = 1; t <= 8; ++t) {
      state.g = test::random_grid(1, 11, 100U + static_cast<unsigned>(t)).values;
      state.step({.learning_rate = 0.01, .beta1 = beta, .beta2 = beta, .step = t});
      const double bias = t * (1 - beta);  // 1 - beta^t, whose other terms are below 1e-14
      for (std::size_t i = 0; i < 11; ++i) {
        const double g = state.g[i];
        m[i] += (1 - beta) * g;
        v[i] += (1 - beta) * g * g;
        p[i] -= 0.01 * (m[i] / bias) / (std::sqrt(v[i] / bias) + 1e-8);
      }
    }
    for (std::size_t i = 0; i < 11; ++i) EXPECT_NEAR(state.p[i], p[i], 2e-6 * (1.0 + std::abs(p[i]))) << beta;
  }
}

TEST(AdamW, OtherBetasAreTheirFp32ValuesThroughout) {
  for (const float beta : {0.0F, 0.5F, 0.9F, 0.95F, 0.999F, 0.9999999F}) {
    for (const std::int64_t count : {1, 7, 100000}) {
      const AdamWConstants c = constants_of({.beta1 = beta, .beta2 = beta, .step = count});
      const double exact = beta;
      EXPECT_EQ(c.beta1, beta);
      EXPECT_EQ(c.one_minus_beta1, static_cast<float>(1.0 - exact));
      EXPECT_FLOAT_EQ(c.unbias1, static_cast<float>(1.0 / (1.0 - std::pow(exact, static_cast<double>(count)))));
      EXPECT_EQ(c.unbias1, c.unbias2);
    }
  }
  EXPECT_EQ(constants_of({.beta1 = 0.9}).one_minus_beta1, static_cast<float>(1.0 - static_cast<double>(0.9F)));
}

// What makes an element's new values overflow or not a number, one for each element that refusing_state() spoils.
constexpr std::size_t kSpoilt[] = {0, 5, 17, 64, 100, 998};

State refusing_state() {
  State state(1003, 3);
  state.g[0] = std::nanf("");
  state.g[5] = -INFINITY;
  state.g[17] = 1e25F;  // its square is infinite, the step would be 0
  state.v[64] = 3.0e38F, state.g[64] = 1.9e19F;
  state.p[100] = 3.4e38F, state.m[100] = -3e38F, state.v[100] = 0.0F;
  state.p[998] = std::nanf("");  // not finite before either
  return state;
}

TEST(AdamW, WritesNothingThatIsNotFinite) {
  const AdamWStep step{.learning_rate = 0.5, .beta2 = 0.95, .weight_decay = 0.1, .step = 2};
  for (const CpuIsa isa : {CpuIsa::kPortable, best_cpu_isa()}) {
    State state = refusing_state(), healthy = refusing_state();
    const State before = state;
    for (const std::size_t i : kSpoilt) healthy.p[i] = healthy.g[i] = healthy.m[i] = healthy.v[i] = 0.0F;
    std::int32_t refused = 0;
    adamw_flat_cpu(Exec{}, {healthy.p, healthy.g, healthy.m, healthy.v, &refused}, step, isa);
    EXPECT_EQ(refused, 0);
    adamw_flat_cpu(Exec{}, {state.p, state.g, state.m, state.v, &refused}, step, isa);
    EXPECT_EQ(refused, 1);
    for (const std::size_t i : kSpoilt) {
      EXPECT_TRUE(test::same_bits(std::vector{state.p[i], state.m[i], state.v[i]},
                                  std::vector{before.p[i], before.m[i], before.v[i]}))
          << i;
      healthy.p[i] = state.p[i], healthy.m[i] = state.m[i], healthy.v[i] = state.v[i];
    }
    EXPECT_TRUE(state.equals(healthy)) << "the others are updated as ever";
  }
}

TEST(AdamW, EverySpoiltElementAloneRaisesTheFlag) {
  const AdamWStep step{.learning_rate = 0.5, .beta2 = 0.95, .weight_decay = 0.1, .step = 2};
  const State all = refusing_state();
  const test::ThreadsParallelFor parallel(3);
  for (const std::size_t i : kSpoilt) {
    State state(70000, 3);
    const std::size_t at = 60000 + i;
    state.p[at] = all.p[i], state.g[at] = all.g[i], state.m[at] = all.m[i], state.v[at] = all.v[i];
    std::int32_t refused = 0;
    state.step(step, Exec{.parallel = &parallel}, &refused);
    EXPECT_EQ(refused, 1) << i;
    state.step(step);  // nobody asks
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

TEST(AdamWSegments, RaiseTheFlagForAnyOfThem) {
  State state(10);
  state.g[7] = INFINITY;
  std::int32_t refused = 0;
  const auto step = [&](std::vector<AdamWSegment> segments) {
    adamw_segments(Exec{}, state.p, state.g, state.m, state.v, segments, &refused);
  };
  step({{.offset = 0, .elems = 7, .step = {}}, {.offset = 8, .elems = 2, .step = {}}});
  EXPECT_EQ(refused, 0);
  step({{.offset = 0, .elems = 2, .step = {}}, {.offset = 6, .elems = 2, .step = {}}});
  EXPECT_EQ(refused, 1);
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
