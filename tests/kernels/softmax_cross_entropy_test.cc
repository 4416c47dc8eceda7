#include "kernels/loss/softmax_cross_entropy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/loss_kernels.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using test::Grid;

double exact(const Grid<float>& logits, std::int64_t row, std::int64_t classes, std::int64_t target) {
  double largest = -INFINITY;
  for (std::int64_t v = 0; v < classes; ++v) largest = std::max<double>(largest, logits.at(row, v));
  double sum = 0.0;
  for (std::int64_t v = 0; v < classes; ++v) sum += std::exp(logits.at(row, v) - largest);
  return std::log(sum) + largest - logits.at(row, target);
}

TEST(SoftmaxCrossEntropy, IsAsComputedByHand) {
  Grid<float> logits(2, 3, {std::log(1.0F), std::log(3.0F), 50.0F, 1000.0F, 1000.0F, -50.0F});
  const std::vector<std::int64_t> targets = {1, 0};
  std::vector<float> losses(2);
  softmax_cross_entropy({}, logits.view(), 2, targets, true, 0.5F, losses);
  EXPECT_NEAR(losses[0], std::log(4.0 / 3.0), 1e-6);
  EXPECT_NEAR(losses[1], std::log(2.0), 1e-6);
  // The third column is padding. p = 1/4 3/4, and 1/2 1/2.
  const std::vector<float> want = {0.125F, -0.125F, 0.0F, -0.25F, 0.25F, 0.0F};
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(logits.values[i], want[i], 1e-6F) << i;
}

TEST(SoftmaxCrossEntropy, GradientMatchesFiniteDifferences) {
  Grid<float> logits = test::random_grid(4, 11, 1);
  const std::vector<std::int64_t> targets = {0, 3, 9, 5};
  Grid<float> gradient = logits;
  std::vector<float> losses(4);
  softmax_cross_entropy({}, gradient.view(), 10, targets, true, 3.0F, losses);
  for (std::int64_t m = 0; m < 4; ++m) {
    const std::int64_t target = targets[static_cast<std::size_t>(m)];
    EXPECT_NEAR(losses[static_cast<std::size_t>(m)], exact(logits, m, 10, target), 1e-5);
    test::expect_gradient_of(logits, gradient, m, 10, 3.0, [&] { return exact(logits, m, 10, target); });
  }
}

TEST(SoftmaxCrossEntropy, WithoutGradientLogitsStayAndThreadsChangeNothing) {
  const Grid<float> logits = test::random_grid(9, 40, 2);
  const std::vector<std::int64_t> targets = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const test::ThreadsParallelFor threads(3);
  std::vector<float> one(9), many(9), with_gradient(9);
  Grid<float> kept = logits;
  softmax_cross_entropy({}, kept.view(), 39, targets, false, 1.0F, one);
  EXPECT_TRUE(test::same_bits(kept.values, logits.values));
  softmax_cross_entropy({.parallel = &threads}, kept.view(), 39, targets, false, 1.0F, many);
  EXPECT_TRUE(test::same_bits(one, many));
  softmax_cross_entropy({}, kept.view(), 39, targets, true, 1.0F, with_gradient);
  EXPECT_TRUE(test::same_bits(one, with_gradient));
}

TEST(SoftmaxCrossEntropy, NonFiniteRowsHaveNonFiniteLossesAndImpossibleClassesNone) {
  Grid<float> logits(4, 3, 0.0F);
  logits.at(0, 1) = NAN;
  logits.at(1, 2) = INFINITY;
  logits.at(2, 0) = -INFINITY;
  for (std::int64_t v = 0; v < 3; ++v) logits.at(3, v) = -INFINITY;
  const std::vector<std::int64_t> targets = {0, 0, 1, 1};
  std::vector<float> losses(4);
  softmax_cross_entropy({}, logits.view(), 3, targets, true, 1.0F, losses);
  EXPECT_FALSE(std::isfinite(losses[0]));
  EXPECT_FALSE(std::isfinite(losses[1]));
  EXPECT_NEAR(losses[2], std::log(2.0), 1e-6);
  EXPECT_EQ(logits.at(2, 0), 0.0F);
  EXPECT_FALSE(std::isfinite(losses[3]));
}

TEST(SoftmaxCrossEntropy, AnIgnoredTargetHasNoLossAndNoGradientWhateverItsLogits) {
  Grid<float> logits = test::random_grid(4, 11, 3);
  for (std::int64_t v = 0; v < 11; ++v) logits.at(2, v) = NAN;
  const std::vector<std::int64_t> all = {0, 3, 9, 5}, masked = {0, kIgnoredTarget, kIgnoredTarget, 5};
  Grid<float> want = logits, got = logits;
  std::vector<float> want_losses(4), losses(4);
  softmax_cross_entropy({}, want.view(), 10, all, true, 3.0F, want_losses);
  softmax_cross_entropy({}, got.view(), 10, masked, true, 3.0F, losses);
  for (std::int64_t m = 0; m < 4; ++m) {
    const bool ignored = masked[static_cast<std::size_t>(m)] == kIgnoredTarget;
    EXPECT_EQ(losses[static_cast<std::size_t>(m)], ignored ? 0.0F : want_losses[static_cast<std::size_t>(m)]);
    for (std::int64_t v = 0; v < 11; ++v) EXPECT_EQ(got.at(m, v), ignored ? 0.0F : want.at(m, v)) << m << "," << v;
  }
  got = logits;
  softmax_cross_entropy({}, got.view(), 10, masked, false, 3.0F, losses);
  EXPECT_EQ(losses[1], 0.0F);
  EXPECT_TRUE(test::same_bits(got.values, logits.values));
}

TEST(SoftmaxCrossEntropy, RefusesWhatDoesNotFit) {
  Grid<float> logits(1, 3);
  std::vector<float> losses(1);
  const std::vector<std::int64_t> padding = {2}, negative = {-1};
  EXPECT_THAT(test::error_of(ErrorKind::kInternal,
                             [&] { softmax_cross_entropy({}, logits.view(), 2, negative, true, 1.0F, losses); }),
              ::testing::HasSubstr("target -1 of 2 classes"));
  EXPECT_THAT(test::error_of(ErrorKind::kInternal,
                             [&] { softmax_cross_entropy({}, logits.view(), 2, padding, true, 1.0F, losses); }),
              ::testing::HasSubstr("target 2 of 2 classes"));
  EXPECT_THAT(test::error_of(ErrorKind::kInternal,
                             [&] { softmax_cross_entropy({}, logits.view(), 4, padding, true, 1.0F, losses); }),
              ::testing::HasSubstr("4 classes for logits of [1, 3]"));
}

}  // namespace
}  // namespace qat::kernels
