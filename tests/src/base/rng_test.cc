#include "src/base/rng.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <tuple>
#include <vector>

namespace qat {
namespace {

TEST(RngKey, PassesOverOneMicroBatchHaveDistinctStreams) {
  EXPECT_EQ(pass_of(7, 0), 7U);  // one pass a step draws as it always has
  std::vector<std::uint64_t> words;
  for (std::uint64_t micro_batch = 0; micro_batch < 40; ++micro_batch)
    for (std::uint64_t pass = 0; pass < 40; ++pass) words.push_back(pass_of(micro_batch, pass));
  std::sort(words.begin(), words.end());
  EXPECT_EQ(std::adjacent_find(words.begin(), words.end()), words.end());
}

TEST(RngKey, DistinctUsesHaveDistinctStreams) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> keys;
  for (const std::uint64_t seed : {0U, 1U, 2U}) {
    for (const RngPurpose purpose : {RngPurpose::kInit, RngPurpose::kSampling, RngPurpose::kDropout,
                                     RngPurpose::kGradientRounding, RngPurpose::kSync}) {
      for (std::uint64_t step = 0; step < 25; ++step) {
        for (std::uint64_t micro_batch = 0; micro_batch < 12; ++micro_batch) {
          for (std::uint64_t slot = 0; slot < 20; ++slot) {
            const kernels::RngKey key = rng_key(seed, purpose, step, micro_batch, slot);
            keys.emplace_back(key.seed, key.stream);
          }
        }
      }
    }
  }
  ASSERT_EQ(keys.size(), 90000U);
  std::vector<std::uint64_t> seeds, streams;
  for (const auto& [seed, stream] : keys) {
    seeds.push_back(seed);
    streams.push_back(stream);
  }
  for (std::vector<std::uint64_t>* half : {&seeds, &streams}) {  // each half alone is already free of collisions
    std::sort(half->begin(), half->end());
    EXPECT_EQ(std::adjacent_find(half->begin(), half->end()), half->end());
  }
}

TEST(RngKey, PartsThatChangePlacesChangeTheStream) {
  const auto stream = [](std::uint64_t step, std::uint64_t micro_batch, std::uint64_t slot) {
    return rng_key(1, RngPurpose::kDropout, step, micro_batch, slot).stream;
  };
  EXPECT_NE(stream(1, 2, 3), stream(2, 1, 3));
  EXPECT_NE(stream(1, 2, 3), stream(1, 3, 2));
  EXPECT_NE(rng_key(1, RngPurpose::kInit).stream, rng_key(0, RngPurpose::kInit, 1).stream);
}

TEST(RngKey, NeverChanges) {  // or old runs could not be resumed
  const kernels::RngKey key = rng_key(1234, RngPurpose::kGradientRounding, 5, 6, 7);
  EXPECT_EQ(key.seed, 0x185CB3F15ECEE0A9U);
  EXPECT_EQ(key.stream, 0xA277835A05E422A8U);
}

// Box-Muller with the C library's functions, from the same words.
double library_normal(kernels::RngKey key, std::uint64_t index) {
  const kernels::Philox4 words = kernels::philox(key, index / 4);
  const std::size_t pair = index % 4 / 2;
  const double radius = std::sqrt(-2.0 * std::log((words.v[2 * pair] + 1.0) / 4294967296.0));
  const double angle = 2.0 * std::numbers::pi * words.v[2 * pair + 1] / 4294967296.0;
  return radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

TEST(FillNormal, AgreesWithTheLibrarysLogarithmAndSine) {
  const kernels::RngKey key = rng_key(7, RngPurpose::kInit);
  std::vector<float> draws(100000);
  fill_normal(key, 1.0F, draws);
  double worst = 0.0;
  for (std::size_t i = 0; i < draws.size(); ++i) {
    const double expected = library_normal(key, i);
    worst = std::max(worst, std::abs(draws[i] - expected) / std::max(std::abs(expected), 1e-3));
  }
  EXPECT_LT(worst, 6.1e-8);  // half an ulp of float, 2^-24 relative, and a little for the functions' own error
}

TEST(FillNormal, HasTheMomentsOfANormalDistribution) {
  std::vector<float> draws(1 << 20);
  fill_normal(rng_key(3, RngPurpose::kInit), 0.02F, draws);
  double moments[5] = {};
  for (const float draw : draws) {
    for (int k = 1; k <= 4; ++k) moments[k] += std::pow(draw / 0.02, k) / static_cast<double>(draws.size());
  }
  // Five standard errors: 1/sqrt(n), sqrt(2/n), sqrt(15/n), sqrt(96/n).
  const double root_n = std::sqrt(static_cast<double>(draws.size()));
  EXPECT_NEAR(moments[1], 0.0, 5 / root_n);
  EXPECT_NEAR(moments[2], 1.0, 5 * std::sqrt(2.0) / root_n);
  EXPECT_NEAR(moments[3], 0.0, 5 * std::sqrt(15.0) / root_n);
  EXPECT_NEAR(moments[4], 3.0, 5 * std::sqrt(96.0) / root_n);
  double lagged = 0.0;  // neighbours, which share a Box-Muller pair or a block, are uncorrelated
  for (std::size_t i = 0; i + 1 < draws.size(); ++i) lagged += draws[i] * draws[i + 1] / (0.02 * 0.02 * draws.size());
  EXPECT_NEAR(lagged, 0.0, 5 / root_n);
}

TEST(FillNormal, ADrawDependsOnItsIndexAlone) {
  const kernels::RngKey key = rng_key(9, RngPurpose::kInit, 0, 0, 4);
  std::vector<float> whole(103);
  fill_normal(key, 0.5F, whole);
  for (std::size_t first : {0U, 1U, 2U, 3U, 4U, 50U}) {
    std::vector<float> part(whole.size() - first);
    fill_normal(key, 0.5F, part, first);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + static_cast<std::ptrdiff_t>(first)));
  }
}

TEST(FillNormal, GivesTheSameBitsEverywhere) {
  std::vector<float> draws(100000);
  fill_normal(rng_key(2024, RngPurpose::kInit, 0, 0, 1), 0.02F, draws);
  std::uint64_t hash = 0xCBF29CE484222325U;  // FNV-1a
  for (const float draw : draws) hash = (hash ^ std::bit_cast<std::uint32_t>(draw)) * 0x100000001B3U;
  EXPECT_EQ(hash, 0x0C54E20FFA1B0FAEU);
}

TEST(FillUniform, StaysInItsRangeAndDependsOnTheIndexAlone) {
  const kernels::RngKey key = rng_key(5, RngPurpose::kSampling);
  std::vector<float> draws(1 << 16);
  fill_uniform(key, -2.0F, 3.0F, draws);
  const auto [low, high] = std::minmax_element(draws.begin(), draws.end());
  EXPECT_GE(*low, -2.0F);
  EXPECT_LT(*low, -1.999F);
  EXPECT_LT(*high, 3.0F);
  EXPECT_GT(*high, 2.999F);
  EXPECT_EQ(draws[5], -2.0F + 5.0F * kernels::uniform_at(key, 5));
  std::vector<float> part(100);
  fill_uniform(key, -2.0F, 3.0F, part, 7);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), draws.begin() + 7));
}

TEST(FillUniform, NeverReturnsTheUpperEndEvenWhereFloatsAreFarApart) {
  std::vector<float> draws(4096);
  const float low = 16777216.0F, high = 16777218.0F;  // two neighbouring floats
  fill_uniform(rng_key(5, RngPurpose::kSampling), low, high, draws);
  EXPECT_EQ(draws, std::vector<float>(4096, low));
}

}  // namespace
}  // namespace qat
