#include "kernels/loss/distillation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/loss_kernels.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using test::Grid;

struct Losses {
  double cross_entropy, distillation;
};

std::vector<double> softmax(const Grid<float>& x, std::int64_t row, std::int64_t classes, double temperature) {
  std::vector<double> p;
  double sum = 0.0;
  for (std::int64_t v = 0; v < classes; ++v) sum += p.emplace_back(std::exp(x.at(row, v) / temperature));
  for (double& one : p) one /= sum;
  return p;
}

Losses exact(const Grid<float>& z, const std::vector<Grid<float>>& teachers, std::int64_t row, std::int64_t classes,
             std::int64_t target, double temperature) {
  Losses losses{-std::log(softmax(z, row, classes, 1.0)[static_cast<std::size_t>(target)]), 0.0};
  const std::vector<double> q = softmax(z, row, classes, temperature);
  for (const Grid<float>& teacher : teachers) {
    const std::vector<double> p = softmax(teacher, row, classes, temperature);
    for (std::size_t v = 0; v < p.size(); ++v)
      losses.distillation += temperature * temperature * p[v] * std::log(p[v] / q[v]);
  }
  return losses;
}

std::vector<ConstFloatMatrix> views(std::vector<Grid<float>>& teachers) {
  std::vector<ConstFloatMatrix> out;
  for (Grid<float>& one : teachers) out.emplace_back(one.view());
  return out;
}

TEST(Distillation, IsAsComputedByHand) {
  // p = (3/4, 1/4), q = (1/4, 3/4) at temperature 2; the third column is padding.
  const float step = 2.0F * std::log(3.0F);
  Grid<float> z(1, 3, {0.0F, step, 7.0F});
  std::vector<Grid<float>> teacher = {Grid<float>(1, 3, {step, 0.0F, -9.0F})};
  std::vector<float> ce(1), kd(1);
  distillation({}, z.view(), views(teacher), 2, std::vector<std::int64_t>{0}, {0.5F, 0.25F, 2.0F}, true, 4.0F, ce, kd);
  EXPECT_NEAR(ce[0], std::log(10.0), 1e-6);  // softmax(z) = (1/10, 9/10)
  EXPECT_NEAR(kd[0], 4.0 * 0.5 * std::log(3.0), 1e-6);
  // 4 (0.5 (1/10 - 1) + 0.25 * 2 (1/4 - 3/4)), and its opposite.
  EXPECT_NEAR(z.at(0, 0), -2.8F, 1e-5F);
  EXPECT_NEAR(z.at(0, 1), 2.8F, 1e-5F);
  EXPECT_EQ(z.at(0, 2), 0.0F);
}

TEST(Distillation, GradientMatchesFiniteDifferencesWithSeveralTeachers) {
  Grid<float> z = test::random_grid(4, 11, 1);
  std::vector<Grid<float>> teachers = {test::random_grid(4, 11, 2), test::random_grid(4, 13, 3)};
  const std::vector<std::int64_t> targets = {0, 3, 9, kIgnoredTarget};
  const DistillationWeights weights{0.7F, 0.3F, 3.0F};
  Grid<float> gradient = z;
  std::vector<float> ce(4), kd(4);
  distillation({}, gradient.view(), views(teachers), 10, targets, weights, true, 2.0F, ce, kd);
  for (std::int64_t m = 0; m < 3; ++m) {
    const std::int64_t target = targets[static_cast<std::size_t>(m)];
    const auto loss = [&] {
      const Losses one = exact(z, teachers, m, 10, target, 3.0);
      return 0.7 * one.cross_entropy + 0.3 * one.distillation;
    };
    const Losses want = exact(z, teachers, m, 10, target, 3.0);
    EXPECT_NEAR(ce[static_cast<std::size_t>(m)], want.cross_entropy, 1e-5);
    EXPECT_NEAR(kd[static_cast<std::size_t>(m)], want.distillation, 1e-5);
    test::expect_gradient_of(z, gradient, m, 10, 2.0, loss);
  }
  EXPECT_EQ(ce[3], 0.0F) << "no target";
  EXPECT_EQ(kd[3], 0.0F) << "no target";
  for (std::int64_t v = 0; v < 11; ++v) EXPECT_EQ(gradient.at(3, v), 0.0F);
}

TEST(Distillation, NothingIsLearntFromOneself) {
  Grid<float> z = test::random_grid(3, 40, 4);
  std::vector<Grid<float>> teacher = {z};
  const Grid<float> before = z;
  const std::vector<std::int64_t> targets = {1, 2, 3};
  std::vector<float> ce(3), kd(3);
  distillation({}, z.view(), views(teacher), 40, targets, {0.0F, 1.0F, 4.0F}, false, 1.0F, ce, kd);
  EXPECT_TRUE(test::same_bits(z.values, before.values)) << "without gradient, logits stay";
  for (const float loss : kd) EXPECT_EQ(loss, 0.0F);
  const test::ThreadsParallelFor threads(2);
  distillation({.parallel = &threads}, z.view(), views(teacher), 40, targets, {0.0F, 1.0F, 4.0F}, true, 1.0F, ce, kd);
  for (const float gradient : z.values) EXPECT_NEAR(gradient, 0.0F, 1e-7F);
}

TEST(Distillation, AClassThatATeacherExcludesHasNoWeight) {
  Grid<float> z(1, 3, {1.0F, 2.0F, 3.0F});
  std::vector<Grid<float>> teacher = {Grid<float>(1, 3, {0.0F, 0.0F, -INFINITY})};
  std::vector<float> ce(1), kd(1);
  distillation({}, z.view(), views(teacher), 3, std::vector<std::int64_t>{0}, {0.0F, 1.0F, 1.0F}, true, 1.0F, ce, kd);
  const double sum = std::exp(1.0) + std::exp(2.0) + std::exp(3.0);
  EXPECT_NEAR(kd[0], std::log(sum) - 1.5 - std::log(2.0), 1e-6);
  EXPECT_NEAR(z.at(0, 2), std::exp(3.0) / sum, 1e-6);
}

}  // namespace
}  // namespace qat::kernels
