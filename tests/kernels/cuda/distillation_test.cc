#include "kernels/loss/distillation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <tuple>
#include <vector>

#include "tests/support/device_buffer.h"
#include "tests/support/loss_kernels.h"

namespace qat::kernels {
namespace {

using test::DeviceBuffer;
using test::DeviceFloats;
using test::Grid;

struct Shape {
  std::int64_t rows, cols, classes;
};
// Odd, unaligned, no padding, padding that begins inside 16 bytes, GPT-2's.
constexpr Shape kShapes[] = {{1, 1, 1}, {3, 5, 5}, {33, 17, 11}, {7, 1024, 1021}, {20, 640, 300}, {9, 50304, 50257}};

class DistillationCuda : public ::testing::TestWithParam<std::tuple<Shape, DType, int>> {};

TEST_P(DistillationCuda, AgreesWithTheCpu) {
  const auto [shape, dtype, count] = GetParam();
  const auto [rows, cols, classes] = shape;
  const auto random = [&](unsigned seed) {
    Grid<float> grid = test::random_grid(rows, cols, seed);
    grid.values = test::rounded_to(grid.values, dtype);
    return grid;
  };
  const Grid<float> logits = random(1);
  std::vector<Grid<float>> teachers;
  for (int k = 0; k < count; ++k) teachers.push_back(random(10U + static_cast<unsigned>(k)));
  const std::vector<std::int64_t> targets = test::some_targets(rows, classes);
  const DistillationWeights weights{0.7F, 0.3F, 3.0F};
  const float gradient_scale = 64.0F;
  Grid<float> want = logits;
  std::vector<float> want_ce(targets.size()), want_kd(targets.size());
  std::vector<ConstFloatMatrix> views;
  for (Grid<float>& teacher : teachers) views.emplace_back(teacher.view());
  distillation({}, want.view(), views, classes, targets, weights, true, gradient_scale, want_ce, want_kd);

  const DeviceFloats device_logits(logits.values, rows, cols, dtype);
  std::deque<DeviceFloats> device_teachers;
  std::vector<ConstFloatMatrix> device_views;
  for (const Grid<float>& teacher : teachers)
    device_views.emplace_back(device_teachers.emplace_back(teacher.values, rows, cols, dtype).view());
  const DeviceBuffer<std::int64_t> device_targets(targets);
  const DeviceBuffer<float> ce(rows), kd(rows), alone_ce(rows), alone_kd(rows);
  distillation(test::cuda_exec(), device_logits.view(), device_views, classes, device_targets.span(), weights, false,
               gradient_scale, alone_ce.span(), alone_kd.span());
  EXPECT_TRUE(test::same_bits(device_logits.download(), logits.values)) << "without gradient, logits stay";
  distillation(test::cuda_exec(), device_logits.view(), device_views, classes, device_targets.span(), weights, true,
               gradient_scale, ce.span(), kd.span());
  EXPECT_TRUE(test::same_bits(alone_ce.download(), ce.download()));
  EXPECT_TRUE(test::same_bits(alone_kd.download(), kd.download()));
  const std::vector<float> got_ce = ce.download(), got_kd = kd.download();
  for (std::size_t m = 0; m < targets.size(); ++m) {
    EXPECT_NEAR(got_ce[m], want_ce[m], 2e-5F + 1e-5F * std::abs(want_ce[m])) << "row " << m;
    EXPECT_NEAR(got_kd[m], want_kd[m], 2e-4F + 1e-4F * std::abs(want_kd[m])) << "row " << m;
  }
  // The student's and the teachers' probabilities may all but cancel.
  test::expect_gradients_near(device_logits.download(), want, classes, 1e-5F * gradient_scale,
                              dtype == DType::kBFloat16 ? 1.0F / 128 : 1e-4F);
}

INSTANTIATE_TEST_SUITE_P(Shapes, DistillationCuda,
                         ::testing::Combine(::testing::ValuesIn(kShapes),
                                            ::testing::Values(DType::kFloat32, DType::kBFloat16),
                                            ::testing::Values(1, 3)));

TEST(DistillationCudaEdges, NothingIsLearntFromOneself) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
    for (const std::int64_t cols : {67, 2048}) {
      Grid<float> logits = test::random_grid(4, cols, 5);
      const DeviceFloats student(logits.values, 4, cols, dtype), teacher(logits.values, 4, cols, dtype);
      const DeviceBuffer<std::int64_t> targets(std::vector<std::int64_t>(4, 3));
      const DeviceBuffer<float> ce(4), kd(4);
      const std::vector<ConstFloatMatrix> views = {teacher.view()};
      distillation(test::cuda_exec(), student.view(), views, cols, targets.span(), {0.0F, 1.0F, 2.5F}, true, 1.0F,
                   ce.span(), kd.span());
      for (const float loss : kd.download()) EXPECT_EQ(loss, 0.0F) << cols;
      for (const float gradient : student.download()) EXPECT_EQ(gradient, 0.0F) << cols;
    }
}

}  // namespace
}  // namespace qat::kernels
