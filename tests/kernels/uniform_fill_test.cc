#include "kernels/common/uniform_fill.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

namespace qat::kernels {
namespace {

constexpr RngKey kKey{0x123456789ABCDEF0ULL, 0x0FEDCBA987654321ULL};
constexpr float kStddev = 0.02F;

bool runs(CpuIsa isa) { return isa == CpuIsa::kPortable || best_cpu_isa() == isa; }

class FillNormal : public ::testing::TestWithParam<CpuIsa> {};

// Box-Muller by the C library, which agrees to the last bits of a double.
TEST_P(FillNormal, IsBoxMullerOfTheWordsOfABlock) {
  if (!runs(GetParam())) GTEST_SKIP() << "no AVX2 on this processor";
  std::vector<float> draws(4 * 5000);
  fill_normal(kKey, 0, kStddev, draws, GetParam());
  for (std::size_t i = 0; i < draws.size(); i += 2) {
    const Philox4 block = philox(kKey, i / 4);
    const double radius = std::sqrt(-2.0 * std::log((block.v[i % 4] + 1.0) * 0x1p-32));
    const double angle = 2.0 * std::numbers::pi * 0x1p-32 * block.v[i % 4 + 1];
    ASSERT_NEAR(draws[i], kStddev * radius * std::cos(angle), 1e-8) << i;
    ASSERT_NEAR(draws[i + 1], kStddev * radius * std::sin(angle), 1e-8) << i;
  }
}

TEST_P(FillNormal, EqualsTheSingleDrawsForAnyStartAndLength) {
  if (!runs(GetParam())) GTEST_SKIP() << "no AVX2 on this processor";
  // The last start crosses the carry from the low to the high word of the block counter.
  for (const std::uint64_t first : {0ULL, 1ULL, 2ULL, 3ULL, 1000003ULL, (4ULL << 32) - 21ULL})
    for (const std::size_t n : {0UL, 1UL, 2UL, 3UL, 4UL, 5UL, 31UL, 32UL, 33UL, 300UL}) {
      std::vector<float> draws(n + 1, -1.0F), want(n + 1, -1.0F);  // one beyond the end, to be left alone
      for (std::size_t i = 0; i < n; ++i)
        fill_normal(kKey, first + i, kStddev, std::span(want).subspan(i, 1), CpuIsa::kPortable);
      fill_normal(kKey, first, kStddev, std::span(draws).first(n), GetParam());
      EXPECT_EQ(draws, want) << "first " << first << ", n " << n;
    }
}

INSTANTIATE_TEST_SUITE_P(Isa, FillNormal, ::testing::Values(CpuIsa::kPortable, CpuIsa::kAvx2),
                         [](const auto& test_case) { return test_case.param == CpuIsa::kAvx2 ? "Avx2" : "Portable"; });

// Long enough for several threads, at a start and a length that no block divides.
TEST(FillByThreads, GivesTheDrawsOfSmallFills) {
  constexpr std::uint64_t kFirst = 1000003;
  std::vector<float> normals((std::size_t{3} << 20) + 5, -1.0F), uniforms = normals;
  fill_normal(kKey, kFirst, kStddev, normals);
  fill_uniform(kKey, kFirst, uniforms);
  std::vector<float> part(1009);
  for (std::size_t begin = 0; begin < normals.size(); begin += part.size()) {
    part.resize(std::min(part.size(), normals.size() - begin));
    fill_normal(kKey, kFirst + begin, kStddev, part);
    ASSERT_TRUE(std::equal(part.begin(), part.end(), normals.begin() + static_cast<std::ptrdiff_t>(begin))) << begin;
    fill_uniform(kKey, kFirst + begin, part);
    ASSERT_TRUE(std::equal(part.begin(), part.end(), uniforms.begin() + static_cast<std::ptrdiff_t>(begin))) << begin;
  }
}

}  // namespace
}  // namespace qat::kernels
