// Sampling against values worked out by hand.
#include "src/generate/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace qat {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

// Logits whose probabilities at temperature 1 are w / sum(w).
std::vector<float> logits_of(const std::vector<double>& weights) {
  std::vector<float> logits;
  for (const double w : weights) logits.push_back(static_cast<float>(std::log(w)));
  return logits;
}

std::vector<int> tokens_of(const std::vector<Candidate>& all) {
  std::vector<int> tokens;
  for (const Candidate& one : all) tokens.push_back(one.token);
  return tokens;
}

void expect_probabilities(const std::vector<Candidate>& all, const std::vector<double>& want) {
  ASSERT_EQ(all.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(all[i].probability, want[i], 1e-6) << i;
}

TEST(Sampling, TemperatureDividesLogits) {
  const auto logits = logits_of({1, 2, 4});
  expect_probabilities(candidates(logits, {.temperature = 1.0}), {1 / 7.0, 2 / 7.0, 4 / 7.0});
  expect_probabilities(candidates(logits, {.temperature = 0.5}), {1 / 21.0, 4 / 21.0, 16 / 21.0});
  const double sum = 1 + std::sqrt(2.0) + 2;
  expect_probabilities(candidates(logits, {.temperature = 2.0}), {1 / sum, std::sqrt(2.0) / sum, 2 / sum});
  // Far from zero nothing overflows.
  expect_probabilities(candidates(std::vector<float>{9000, 9000, 0}, {.temperature = 0.01}), {0.5, 0.5, 0});
}

TEST(Sampling, TopKKeepsTheLikeliestAndWhatEqualsTheLastOfThem) {
  const auto logits = logits_of({3, 1, 4, 2});
  const auto kept = candidates(logits, {.temperature = 1.0, .top_k = 2});
  EXPECT_THAT(tokens_of(kept), ElementsAre(0, 2));
  expect_probabilities(kept, {3 / 7.0, 4 / 7.0});
  EXPECT_THAT(tokens_of(candidates(logits, {.temperature = 1.0, .top_k = 1})), ElementsAre(2));
  EXPECT_THAT(tokens_of(candidates(logits, {.temperature = 1.0, .top_k = 9})), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(tokens_of(candidates(logits_of({5, 5, 5, 1}), {.temperature = 1.0, .top_k = 2})), ElementsAre(0, 1, 2));
}

TEST(Sampling, TopPKeepsTheFewestTokensOfThatProbability) {
  const auto logits = logits_of({0.1, 0.4, 0.2, 0.3});
  const auto kept = [&](double p) { return tokens_of(candidates(logits, {.temperature = 1.0, .top_p = p})); };
  EXPECT_THAT(kept(0.01), ElementsAre(1)) << "never none";
  EXPECT_THAT(kept(0.39), ElementsAre(1));
  EXPECT_THAT(kept(0.41), ElementsAre(1, 3));
  EXPECT_THAT(kept(0.69), ElementsAre(1, 3));
  EXPECT_THAT(kept(0.71), ElementsAre(1, 2, 3));
  EXPECT_THAT(kept(0.95), ElementsAre(0, 1, 2, 3));
  expect_probabilities(candidates(logits, {.temperature = 1.0, .top_p = 0.5}), {4 / 7.0, 3 / 7.0});
  // Of equal ones those with the lowest ids.
  EXPECT_THAT(tokens_of(candidates(logits_of({1, 1, 1, 1}), {.temperature = 1.0, .top_p = 0.5})), ElementsAre(0, 1));
}

// Among 4, 3 and 2 of 10, 0.7 is 4 and 3, which have 7/9; of all ten it would be the same two with 7/10.
TEST(Sampling, TopPCountsAmongTopK) {
  const auto logits = logits_of({1, 4, 2, 3});
  EXPECT_THAT(tokens_of(candidates(logits, {.temperature = 1.0, .top_k = 3, .top_p = 0.75})), ElementsAre(1, 3));
  EXPECT_THAT(tokens_of(candidates(logits, {.temperature = 1.0, .top_k = 0, .top_p = 0.75})), ElementsAre(1, 2, 3));
}

TEST(Sampling, PenaltyDividesPositiveLogitsAndMultipliesOthersOnce) {
  std::vector<float> logits = {4, -4, 4, -4, 0};
  penalize_repetition(logits, std::vector<int>{0, 1, 1, 0, 4, 99}, 2.0);
  EXPECT_THAT(logits, ElementsAre(2, -8, 4, -4, 0));
  penalize_repetition(logits, std::vector<int>{2}, 1.0);
  EXPECT_THAT(logits, ElementsAre(2, -8, 4, -4, 0));
  penalize_repetition(logits, std::vector<int>{2, 3}, 0.5);
  EXPECT_THAT(logits, ElementsAre(2, -8, 8, -2, 0));
}

TEST(Sampling, GreedyTakesTheFirstOfTheLargest) {
  EXPECT_EQ(greedy_choice(std::vector<float>{1, 3, 2, 3}), 1);
  EXPECT_EQ(greedy_choice(std::vector<float>{-INFINITY, -5}), 1);
}

TEST(Sampling, ADrawChoosesByTheSumOfProbabilities) {
  const std::vector<Candidate> all = {{7, 0.25}, {9, 0.5}, {20, 0.25}, {30, 0.0}};
  EXPECT_EQ(sampled_choice(all, 0.0), 7);
  EXPECT_EQ(sampled_choice(all, 0.2499), 7);
  EXPECT_EQ(sampled_choice(all, 0.25), 9);
  EXPECT_EQ(sampled_choice(all, 0.7499), 9);
  EXPECT_EQ(sampled_choice(all, 0.75), 20);
  EXPECT_EQ(sampled_choice(std::vector<Candidate>{{7, 0.5}, {9, 0.4}, {30, 0.0}}, 0.99), 9)
      << "never an impossible one";
}

TEST(Sampling, DrawsDependOnSeedPromptAndPositionAlone) {
  std::set<double> seen;
  double sum = 0.0;
  for (std::uint64_t seed = 0; seed < 10; ++seed)
    for (std::uint64_t prompt = 0; prompt < 10; ++prompt)
      for (std::uint64_t position = 0; position < 10; ++position) {
        const double u = sampling_draw(seed, prompt, position);
        EXPECT_EQ(u, sampling_draw(seed, prompt, position));
        EXPECT_TRUE(u >= 0.0 && u < 1.0);
        seen.insert(u);
        sum += u;
      }
  EXPECT_EQ(seen.size(), 1000U);
  EXPECT_NEAR(sum / 1000, 0.5, 0.03);  // three standard deviations
}

}  // namespace
}  // namespace qat
