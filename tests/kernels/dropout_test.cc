#include "kernels/activation/dropout.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/common/error.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::Grid;

constexpr RngKey kKey{.seed = 5, .stream = 77};

TEST(Dropout, DropsTheElementsWhoseDrawIsBelowPAndScalesTheRest) {
  const Grid<float> x = test::random_grid(37, 61, 1);
  Grid<float> y(37, 61);
  dropout({}, x.view(), 0.25F, kKey, y.view());
  for (std::size_t i = 0; i < x.values.size(); ++i)
    ASSERT_EQ(y.values[i], uniform_at(kKey, i) < 0.25F ? 0.0F : x.values[i] * (1.0F / 0.75F)) << i;
}

TEST(Dropout, KeepsTheMean) {
  Grid<float> ones(400, 1000), y(400, 1000);
  ones.values.assign(ones.values.size(), 1.0F);
  dropout({}, ones.view(), 0.1F, kKey, y.view());
  double sum = 0.0;
  for (const float value : y.values) sum += value;
  // Six standard deviations of the mean of 400,000 draws of variance p / (1 - p).
  EXPECT_NEAR(sum / 400'000, 1.0, 6 * std::sqrt(0.1 / 0.9 / 400'000));
}

TEST(Dropout, ZeroKeepsEverythingAndOneIsRefused) {
  Grid<float> x = test::random_grid(5, 7, 2);
  const std::vector<float> before = x.values;
  dropout({}, x.view(), 0.0F, kKey, x.view());
  EXPECT_EQ(x.values, before);
  EXPECT_THROW(dropout({}, x.view(), 1.0F, kKey, x.view()), Error);
  EXPECT_THROW(dropout({}, x.view(), -0.1F, kKey, x.view()), Error);
}

}  // namespace
}  // namespace qat::kernels
