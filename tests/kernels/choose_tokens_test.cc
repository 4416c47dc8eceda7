// Sampling against values worked out by hand.
#include "kernels/sampling/choose_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/sampling/choose_tokens_cpu.h"
#include "kernels/sampling/sampling_weight.h"
#include "tests/support/kernel_data.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using ::testing::ElementsAre;

constexpr std::int64_t kHalf = std::int64_t{1} << 52;  // a draw of 1/2

// Logits whose probabilities at temperature 1 are w / sum(w).
std::vector<float> logits_of(const std::vector<double>& weights) {
  std::vector<float> logits;
  for (const double w : weights) logits.push_back(static_cast<float>(std::log(w)));
  return logits;
}

std::vector<int> kept_of(const std::vector<float>& logits, const SamplingOptions& options) {
  const std::vector<std::uint64_t> weights = sampling_weights(logits, options);
  std::vector<int> kept;
  for (std::size_t i = 0; i < weights.size(); ++i)
    if (weights[i] > 0) kept.push_back(static_cast<int>(i));
  return kept;
}

void expect_probabilities(const std::vector<float>& logits, const SamplingOptions& options,
                          const std::vector<double>& want) {
  const std::vector<std::uint64_t> weights = sampling_weights(logits, options);
  ASSERT_EQ(weights.size(), want.size());
  double sum = 0.0;
  for (const std::uint64_t w : weights) sum += static_cast<double>(w);
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(static_cast<double>(weights[i]) / sum, want[i], 1e-6) << i;
}

// One text's token; -1 if a logit is not finite.
std::int64_t choice(const std::vector<float>& logits, const SamplingOptions& options, std::int64_t draw = 0,
                    std::vector<std::uint8_t> seen = {}) {
  std::vector<std::int64_t> token(1, -7), finite(1, -7);
  const auto columns = static_cast<std::int64_t>(logits.size());
  choose_tokens({}, Matrix<const float>{logits.data(), 1, columns}, options,
                {seen.data(), seen.empty() ? 0 : 1, seen.empty() ? 0 : columns}, std::vector<std::int64_t>{draw}, token,
                finite);
  return finite[0] == 1 ? token[0] : -1;
}

TEST(SamplingWeight, IsTheExponentialToTheLastBits) {
  EXPECT_EQ(sampling_weight(0.0), std::uint64_t{1} << 43);
  for (double x = -30.4; x < 0.0; x += 0.0137) {
    const double want = std::ldexp(std::exp(x), 43);
    EXPECT_NEAR(static_cast<double>(sampling_weight(x)), want, 0.51 + 3e-16 * want) << x;
  }
  EXPECT_EQ(sampling_weight(-30.4), 1U);
  EXPECT_EQ(sampling_weight(-30.6), 0U);
  EXPECT_EQ(sampling_weight(-1e300), 0U);
  EXPECT_EQ(sampling_weight(-INFINITY), 0U);
}

TEST(SamplingWeight, SharesAreExact) {
  const std::uint64_t one = std::uint64_t{1} << 53;
  EXPECT_EQ(share_of(one, ~std::uint64_t{0}).whole, ~std::uint64_t{0});
  EXPECT_FALSE(share_of(one, ~std::uint64_t{0}).rest);
  EXPECT_EQ(share_of(one / 2, 7).whole, 3U);
  EXPECT_EQ(share_of(one / 2, 7).up(), 4U);
  EXPECT_EQ(share_of(one / 2, 8).up(), 4U);
  EXPECT_EQ(share_of(one - 1, ~std::uint64_t{0}).whole, ~std::uint64_t{0} - 2048);
  EXPECT_EQ(share_of(0, 5).up(), 0U);
}

TEST(ChooseTokens, TemperatureDividesLogits) {
  const auto logits = logits_of({1, 2, 4});
  expect_probabilities(logits, {.temperature = 1.0}, {1 / 7.0, 2 / 7.0, 4 / 7.0});
  expect_probabilities(logits, {.temperature = 0.5}, {1 / 21.0, 4 / 21.0, 16 / 21.0});
  const double sum = 1 + std::sqrt(2.0) + 2;
  expect_probabilities(logits, {.temperature = 2.0}, {1 / sum, std::sqrt(2.0) / sum, 2 / sum});
  // Far from zero nothing overflows.
  expect_probabilities({9000, 9000, 0}, {.temperature = 0.01}, {0.5, 0.5, 0});
}

TEST(ChooseTokens, TopKKeepsTheLikeliestAndWhatEqualsTheLastOfThem) {
  const auto logits = logits_of({3, 1, 4, 2});
  EXPECT_THAT(kept_of(logits, {.temperature = 1.0, .top_k = 2}), ElementsAre(0, 2));
  expect_probabilities(logits, {.temperature = 1.0, .top_k = 2}, {3 / 7.0, 0, 4 / 7.0, 0});
  EXPECT_THAT(kept_of(logits, {.temperature = 1.0, .top_k = 1}), ElementsAre(2));
  EXPECT_THAT(kept_of(logits, {.temperature = 1.0, .top_k = 9}), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(kept_of(logits_of({5, 5, 5, 1}), {.temperature = 1.0, .top_k = 2}), ElementsAre(0, 1, 2));
}

TEST(ChooseTokens, TopPKeepsTheFewestTokensOfThatProbability) {
  const auto logits = logits_of({0.1, 0.4, 0.2, 0.3});
  const auto kept = [&](double p) { return kept_of(logits, {.temperature = 1.0, .top_p = p}); };
  EXPECT_THAT(kept(0.01), ElementsAre(1)) << "never none";
  EXPECT_THAT(kept(0.39), ElementsAre(1));
  EXPECT_THAT(kept(0.41), ElementsAre(1, 3));
  EXPECT_THAT(kept(0.69), ElementsAre(1, 3));
  EXPECT_THAT(kept(0.71), ElementsAre(1, 2, 3));
  EXPECT_THAT(kept(0.95), ElementsAre(0, 1, 2, 3));
  expect_probabilities(logits, {.temperature = 1.0, .top_p = 0.5}, {0, 4 / 7.0, 0, 3 / 7.0});
  // Of equal ones those with the lowest ids.
  EXPECT_THAT(kept_of(logits_of({1, 1, 1, 1}), {.temperature = 1.0, .top_p = 0.5}), ElementsAre(0, 1));
}

// Among 4, 3 and 2 of 10, 0.75 is 4 and 3, which have 7/9; of all ten it would take the third, too.
TEST(ChooseTokens, TopPCountsAmongTopK) {
  const auto logits = logits_of({1, 4, 2, 3});
  EXPECT_THAT(kept_of(logits, {.temperature = 1.0, .top_k = 3, .top_p = 0.75}), ElementsAre(1, 3));
  EXPECT_THAT(kept_of(logits, {.temperature = 1.0, .top_k = 0, .top_p = 0.75}), ElementsAre(1, 2, 3));
}

TEST(ChooseTokens, GreedyTakesTheFirstOfTheLargest) {
  EXPECT_EQ(choice({1, 3, 2, 3}, {}), 1);
  EXPECT_EQ(choice({-0.0F, 0.0F, -1}, {}), 0);
  EXPECT_EQ(choice({-5}, {}), 0);
}

TEST(ChooseTokens, PenaltyDividesPositiveLogitsAndMultipliesOthers) {
  const SamplingOptions twice{.repetition_penalty = 2.0};
  EXPECT_EQ(choice({4, 3, -1}, twice, 0, {1, 0, 0}), 1) << "2, 3, -1";
  EXPECT_EQ(choice({4, 3, -1}, twice, 0, {1, 1, 0}), 0) << "2, 1.5, -1";
  EXPECT_EQ(choice({-2, -3, -5}, twice, 0, {1, 0, 0}), 1) << "-4, -3, -5";
  EXPECT_EQ(choice({2, 3, -5}, {.repetition_penalty = 0.5}, 0, {1, 0, 0}), 0) << "4, 3, -5";
  expect_probabilities({std::log(4.0F), 0}, {.temperature = 1.0}, {4 / 5.0, 1 / 5.0});
  EXPECT_EQ(choice({std::log(4.0F), 0}, {.temperature = 1.0}, kHalf / 2 * 3), 0) << "u is 3/4";
  EXPECT_EQ(choice({std::log(4.0F), 0}, {.temperature = 1.0, .repetition_penalty = 2.0}, kHalf / 2 * 3, {1, 0}), 1)
      << "the first has 2/3 now";
}

// The second call finds what the first has chosen.
TEST(ChooseTokens, WhatIsChosenIsSeenFromThenOn) {
  const std::vector<float> logits = {1, 5, 4, 1, 5, 4};
  std::vector<std::uint8_t> seen(6, 0);
  std::vector<std::int64_t> tokens(2), finite(2);
  const auto choose = [&] {
    choose_tokens({}, Matrix<const float>{logits.data(), 2, 3}, {.repetition_penalty = 10}, {seen.data(), 2, 3}, {},
                  tokens, finite);
  };
  choose();
  EXPECT_THAT(tokens, ElementsAre(1, 1));
  seen[4] = 0;
  choose();
  EXPECT_THAT(tokens, ElementsAre(2, 1));
  EXPECT_THAT(seen, ElementsAre(0, 1, 1, 0, 1, 0));
}

TEST(ChooseTokens, ADrawChoosesByTheSumOfProbabilities) {
  const std::vector<std::uint64_t> weights = {0, 1, 2, 0, 1, 0};
  const auto at = [&](double u) { return drawn_token(weights, static_cast<std::uint64_t>(std::ldexp(u, 53))); };
  EXPECT_EQ(at(0.0), 1);
  EXPECT_EQ(at(0.2499), 1);
  EXPECT_EQ(at(0.25), 2);
  EXPECT_EQ(at(0.7499), 2);
  EXPECT_EQ(at(0.75), 4);
  EXPECT_EQ(drawn_token(weights, (std::uint64_t{1} << 53) - 1), 4) << "never an impossible one";
}

TEST(ChooseTokens, RowsOfNumbersAreToldFromOthers) {
  EXPECT_EQ(choice({1, 3, 2}, {.temperature = 1.0}, kHalf), 1);
  for (const double temperature : {0.0, 1.0})
    for (const float wrong : {NAN, INFINITY, -INFINITY})
      EXPECT_EQ(choice({1, 3, wrong}, {.temperature = temperature}, kHalf), -1) << wrong;
}

TEST(ChooseTokens, RowsAreTheSameWhateverThreadsThereAreAndStandAtAnyDistance) {
  const test::Grid<float> logits = test::random_grid(9, 301, 3);
  const SamplingOptions options{.temperature = 1.3, .top_k = 40, .top_p = 0.9};
  std::vector<std::int64_t> draws(9), one(9), many(9), finite(9);
  for (std::size_t b = 0; b < draws.size(); ++b) draws[b] = static_cast<std::int64_t>(b) * (kHalf / 5);
  const ConstFloatMatrix narrow(logits.values.data(), 9, 300, 301, DType::kFloat32);
  choose_tokens({}, narrow, options, {}, draws, one, finite);
  const test::ThreadsParallelFor threads(3);
  choose_tokens({.parallel = &threads}, narrow, options, {}, draws, many, finite);
  EXPECT_EQ(one, many);
  for (std::int64_t b = 0; b < 9; ++b)
    EXPECT_EQ(one[static_cast<std::size_t>(b)],
              choice({logits.row(b).begin(), logits.row(b).end() - 1}, options, draws[static_cast<std::size_t>(b)]));
}

TEST(ChooseTokens, RefusesWhatDoesNotFit) {
  const std::vector<float> logits(6);
  std::vector<std::int64_t> tokens(2), finite(2), draws(1);
  const auto refused = [&](const SamplingOptions& options) {
    return test::error_of(ErrorKind::kInternal, [&] {
      choose_tokens({}, Matrix<const float>{logits.data(), 2, 3}, options, {}, draws, tokens, finite);
    });
  };
  EXPECT_THAT(refused({.temperature = 1.0}), ::testing::HasSubstr("1 draws for logits of [2, 3]"));
  EXPECT_THAT(refused({.repetition_penalty = 2.0}), ::testing::HasSubstr("seen"));
  EXPECT_THAT(refused({.top_p = 0.0}), ::testing::HasSubstr("top-p"));
}

}  // namespace
}  // namespace qat::kernels
