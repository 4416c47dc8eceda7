#include "kernels/loss/softmax_cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

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
// Odd, unaligned, no padding, padding that begins inside 16 bytes, GPT-2's, rows that shared memory does not hold.
constexpr Shape kShapes[] = {{1, 1, 1},         {3, 5, 5},           {33, 17, 11},     {64, 768, 768},
                             {7, 1024, 1021},   {20, 640, 300},      {5, 8, 3},        {9, 50304, 50257},
                             {2, 60000, 59999}, {2, 131072, 131001}, {300, 2304, 2304}};

class SoftmaxCrossEntropyCuda : public ::testing::TestWithParam<std::tuple<Shape, DType>> {};

TEST_P(SoftmaxCrossEntropyCuda, AgreesWithTheCpu) {
  const auto [shape, dtype] = GetParam();
  const auto [rows, cols, classes] = shape;
  Grid<float> logits = test::random_grid(rows, cols, 1);
  logits.values = test::rounded_to(logits.values, dtype);
  const std::vector<std::int64_t> targets = test::some_targets(rows, classes);
  const float gradient_scale = 64.0F;
  Grid<float> want = logits;
  std::vector<float> want_losses(static_cast<std::size_t>(rows));
  softmax_cross_entropy({}, want.view(), classes, targets, true, gradient_scale, want_losses);

  const DeviceFloats device_logits(logits.values, rows, cols, dtype);
  const DeviceBuffer<std::int64_t> device_targets(targets);
  const DeviceBuffer<float> losses(rows), losses_alone(rows);
  softmax_cross_entropy(test::cuda_exec(), device_logits.view(), classes, device_targets.span(), false, gradient_scale,
                        losses_alone.span());
  EXPECT_TRUE(test::same_bits(device_logits.download(), logits.values)) << "without gradient, logits stay";
  softmax_cross_entropy(test::cuda_exec(), device_logits.view(), classes, device_targets.span(), true, gradient_scale,
                        losses.span());
  EXPECT_TRUE(test::same_bits(losses_alone.download(), losses.download()));
  const std::vector<float> got_losses = losses.download();
  for (std::size_t m = 0; m < want_losses.size(); ++m)
    EXPECT_NEAR(got_losses[m], want_losses[m], 1e-5F + 4e-6F * std::abs(want_losses[m])) << "row " << m;

  test::expect_gradients_near(device_logits.download(), want, classes, 1e-6F * gradient_scale,
                              dtype == DType::kBFloat16 ? 1.0F / 128 : 3e-5F);
}

TEST(SoftmaxCrossEntropyCudaEdges, NonFiniteRowsHaveNonFiniteLossesAndImpossibleClassesNone) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
    for (const std::int64_t cols : {67, 2048}) {
      SCOPED_TRACE(cols);
      Grid<float> logits(5, cols, 0.0F);
      logits.at(0, 1) = NAN;
      logits.at(1, 2) = INFINITY;
      for (std::int64_t v = 0; v < cols - 2; ++v) logits.at(2, v) = -INFINITY;
      for (std::int64_t v = 0; v < cols; ++v) logits.at(3, v) = -INFINITY;
      const std::vector<std::int64_t> targets = {0, 0, cols - 1, 1, cols};
      const DeviceFloats device_logits(logits.values, 5, cols, dtype);
      const DeviceBuffer<std::int64_t> device_targets(targets);
      const DeviceBuffer<float> losses(5);
      softmax_cross_entropy(test::cuda_exec(), device_logits.view(), cols, device_targets.span(), true, 1.0F,
                            losses.span());
      const std::vector<float> got = losses.download();
      EXPECT_FALSE(std::isfinite(got[0])) << "NaN";
      EXPECT_FALSE(std::isfinite(got[1])) << "infinity";
      EXPECT_NEAR(got[2], std::log(2.0), 1e-5);
      EXPECT_FALSE(std::isfinite(got[3])) << "nothing possible";
      EXPECT_TRUE(std::isnan(got[4])) << "a target that is no class";
      const std::vector<float> gradient = device_logits.download();
      EXPECT_EQ(gradient[static_cast<std::size_t>(2 * cols)], 0.0F);
      EXPECT_NEAR(gradient[static_cast<std::size_t>(3 * cols - 1)], -0.5F, 1e-5F);
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, SoftmaxCrossEntropyCuda,
                         ::testing::Combine(::testing::ValuesIn(kShapes),
                                            ::testing::Values(DType::kFloat32, DType::kBFloat16)),
                         [](const auto& info) {
                           const auto shape = std::get<0>(info.param);
                           const DType dtype = std::get<1>(info.param);
                           return std::to_string(shape.rows) + "x" + std::to_string(shape.cols) + "of" +
                                  std::to_string(shape.classes) + (dtype == DType::kFloat32 ? "Fp32" : "Bf16");
                         });

}  // namespace
}  // namespace qat::kernels
