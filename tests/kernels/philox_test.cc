#include "kernels/common/philox.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/common/uniform_fill.h"

namespace qat::kernels {
namespace {

std::vector<std::uint32_t> words(RngKey key, std::uint64_t counter) {
  const Philox4 block = philox(key, counter);
  return {block.v, block.v + 4};
}

// kat_vectors of Random123 for philox4x32 with 10 rounds. Our layout: counter words (counter low, counter high, stream
// low, stream high), key words (seed low, seed high).
TEST(Philox, GivesTheKnownAnswersOfItsAuthors) {
  EXPECT_EQ(words({.seed = 0, .stream = 0}, 0),
            (std::vector<std::uint32_t>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(words({.seed = ~0ULL, .stream = ~0ULL}, ~0ULL),
            (std::vector<std::uint32_t>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(words({.seed = 0x299f31d0a4093822ULL, .stream = 0x0370734413198a2eULL}, 0x85a308d3243f6a88ULL),
            (std::vector<std::uint32_t>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// The same file's vectors for seven rounds.
TEST(Philox, GivesTheKnownAnswersOfSevenRounds) {
  const auto seven = [](RngKey key, std::uint64_t counter) {
    const Philox4 block = rounding_block(key, counter);
    return std::vector<std::uint32_t>{block.v, block.v + 4};
  };
  EXPECT_EQ(seven({.seed = 0, .stream = 0}, 0),
            (std::vector<std::uint32_t>{0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48}));
  EXPECT_EQ(seven({.seed = ~0ULL, .stream = ~0ULL}, ~0ULL),
            (std::vector<std::uint32_t>{0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662}));
  EXPECT_EQ(seven({.seed = 0x299f31d0a4093822ULL, .stream = 0x0370734413198a2eULL}, 0x85a308d3243f6a88ULL),
            (std::vector<std::uint32_t>{0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a}));
}

TEST(Philox, RoundingDrawsAreTheBytesOfTheirBlock) {
  const RngKey key{7, 9};
  for (std::uint64_t i = 0; i < 48; ++i) {
    const std::uint32_t word = rounding_block(key, i / 16).v[i % 16 / 4];
    const std::uint32_t byte = word >> (8 * (i % 4)) & 0xFFU;
    EXPECT_EQ(rounding_byte_at(key, i), byte);
    EXPECT_EQ(rounding_uniform_at(key, i), (static_cast<float>(byte) + 0.5F) / 256.0F);
  }
  EXPECT_EQ(rounding_uniform(0), 0x1p-9F);
  EXPECT_EQ(rounding_uniform(0xFFU), 1.0F - 0x1p-9F);
}

TEST(Philox, KeysWorkedOutBeforehandGiveTheSameBlocks) {
  for (const RngKey key : {RngKey{0, 0}, RngKey{~0ULL, ~0ULL}, RngKey{0x299f31d0a4093822ULL, 0x0370734413198a2eULL}})
    for (const std::uint64_t block : {0ULL, 1ULL, 0xFFFFFFFFULL, 0x100000000ULL, 0x85a308d3243f6a88ULL, ~0ULL}) {
      const Philox4 want = rounding_block(key, block), got = rounding_block(rounding_keys(key), block);
      EXPECT_EQ(std::vector<std::uint32_t>(got.v, got.v + 4), std::vector<std::uint32_t>(want.v, want.v + 4));
    }
}

TEST(Philox, UniformDrawsLieInZeroToOneWithoutOne) {
  EXPECT_EQ(uniform01(0), 0.0F);
  EXPECT_EQ(uniform01(0xFFU), 0.0F);
  EXPECT_EQ(uniform01(0x80000000U), 0.5F);
  EXPECT_EQ(uniform01(0xFFFFFFFFU), 1.0F - 0x1p-24F);
}

TEST(Philox, ElementIndexPicksAWordOfItsBlock) {
  const RngKey key{7, 9};
  for (std::uint64_t i = 0; i < 12; ++i) EXPECT_EQ(uniform_at(key, i), uniform01(philox(key, i / 4).v[i % 4]));
}

class FillUniform : public ::testing::TestWithParam<CpuIsa> {};

TEST_P(FillUniform, EqualsTheSingleDrawsForAnyStartAndLength) {
  if (GetParam() == CpuIsa::kAvx2 && best_cpu_isa() != CpuIsa::kAvx2) GTEST_SKIP() << "no AVX2 on this processor";
  const RngKey key{0x123456789ABCDEF0ULL, 0x0FEDCBA987654321ULL};
  // The last start crosses the carry from the low to the high word of the block counter.
  for (const std::uint64_t first : {0ULL, 1ULL, 2ULL, 3ULL, 1000003ULL, (4ULL << 32) - 21ULL})
    for (const std::size_t n : {0UL, 1UL, 2UL, 3UL, 4UL, 5UL, 15UL, 16UL, 17UL, 33UL, 100UL}) {
      std::vector<float> draws(n + 1, -1.0F), want(n + 1, -1.0F);  // one beyond the end, to be left alone
      for (std::size_t i = 0; i < n; ++i) want[i] = uniform_at(key, first + i);
      fill_uniform(key, first, std::span(draws).first(n), GetParam());
      EXPECT_EQ(draws, want) << "first " << first << ", n " << n;
    }
}

TEST_P(FillUniform, OfRoundingEqualsTheSingleDrawsForAnyStartAndLength) {
  if (GetParam() == CpuIsa::kAvx2 && best_cpu_isa() != CpuIsa::kAvx2) GTEST_SKIP() << "no AVX2 on this processor";
  const RngKey key{0x123456789ABCDEF0ULL, 0x0FEDCBA987654321ULL};
  for (const std::uint64_t first : {0ULL, 1ULL, 5ULL, 15ULL, 1000003ULL, (16ULL << 32) - 43ULL})
    for (const std::size_t n : {0UL, 1UL, 15UL, 16UL, 17UL, 127UL, 128UL, 129UL, 260UL, 600UL}) {
      std::vector<float> draws(n + 1, -1.0F), want(n + 1, -1.0F);  // one beyond the end, to be left alone
      for (std::size_t i = 0; i < n; ++i) want[i] = rounding_uniform_at(key, first + i);
      fill_rounding_uniform(key, first, std::span(draws).first(n), GetParam());
      EXPECT_EQ(draws, want) << "first " << first << ", n " << n;
    }
}

INSTANTIATE_TEST_SUITE_P(Isa, FillUniform, ::testing::Values(CpuIsa::kPortable, CpuIsa::kAvx2),
                         [](const auto& test_case) { return test_case.param == CpuIsa::kAvx2 ? "Avx2" : "Portable"; });

TEST(Philox, DrawsHaveTheMeanAndVarianceOfAUniform) {
  const auto check = [](const std::vector<float>& draws) {
    double sum = 0.0, squares = 0.0;
    for (const float u : draws) {
      sum += u;
      squares += static_cast<double>(u) * u;
    }
    const double n = static_cast<double>(draws.size()), mean = sum / n;
    EXPECT_NEAR(mean, 0.5, 5 * 0.28868 / 256);  // five standard errors
    EXPECT_NEAR(squares / n - mean * mean, 1.0 / 12, 0.002);
  };
  std::vector<float> draws(1 << 16);
  fill_uniform({42, 1}, 0, draws);
  check(draws);
  fill_rounding_uniform({42, 1}, 0, draws);
  check(draws);
}

}  // namespace
}  // namespace qat::kernels
