#include "kernels/optim/add_noise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/common/error.h"
#include "kernels/common/uniform_fill.h"
#include "tests/support/kernel_data.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

constexpr RngKey kKey{.seed = 11, .stream = 1ULL << 41U};

std::vector<float> noisy(std::size_t n, std::uint64_t first, const Exec& exec = {}) {
  std::vector<float> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = 0.25F * static_cast<float>((first + i) % 7);
  add_noise(exec, x, first, 0.5, kKey);
  return x;
}

TEST(AddNoise, AddsTheDrawsOfTheElements) {
  for (const std::uint64_t first : {0ULL, 1ULL, 6ULL, (1ULL << 33U) + 3}) {
    std::vector<float> draws(1001);
    fill_normal(kKey, first, 0.5F, draws);
    const std::vector<float> got = noisy(draws.size(), first);
    for (std::size_t i = 0; i < draws.size(); ++i)
      ASSERT_EQ(got[i], 0.25F * static_cast<float>((first + i) % 7) + draws[i]) << first << " " << i;
  }
}

TEST(AddNoise, AnyCutAndAnyNumberOfThreadsGivesTheSameBits) {
  const std::vector<float> whole = noisy(10000, 0);
  const test::ThreadsParallelFor threads(3);
  EXPECT_TRUE(test::same_bits(noisy(10000, 0, {.parallel = &threads}), whole));
  for (const std::size_t cut : {1UL, 2UL, 4095UL, 9999UL}) {
    std::vector<float> parts = noisy(cut, 0);
    const std::vector<float> rest = noisy(10000 - cut, cut);
    parts.insert(parts.end(), rest.begin(), rest.end());
    EXPECT_TRUE(test::same_bits(parts, whole)) << cut;
  }
}

TEST(AddNoise, HasTheDeviationThatIsAskedFor) {
  std::vector<float> x(100000);
  add_noise({}, x, 0, 3.0, kKey);
  double sum = 0.0, squares = 0.0;
  for (const float one : x) sum += one, squares += static_cast<double>(one) * one;
  EXPECT_NEAR(sum / 1e5, 0.0, 0.04);
  EXPECT_NEAR(std::sqrt(squares / 1e5), 3.0, 0.03);
  std::vector<float> still(5, 2.0F);
  add_noise({}, still, 0, 0.0, kKey);
  EXPECT_EQ(still, std::vector<float>(5, 2.0F));
  EXPECT_THROW(add_noise({}, still, 0, std::numeric_limits<double>::quiet_NaN(), kKey), Error);
}

}  // namespace
}  // namespace qat::kernels
