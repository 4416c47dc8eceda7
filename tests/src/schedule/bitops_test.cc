#include "src/schedule/bitops.h"

#include <gtest/gtest.h>

#include <vector>

#include "src/schedule/precision_schedule.h"

namespace qat {
namespace {

// Reduction in percent of a whole run under CPT's cosine rise low..high, against the same run at a constant width
// `fixed`; gradients have `gradient` bits in both.
double reduction(int low, int high, int fixed, int gradient, std::int64_t steps, std::int64_t cycles) {
  PrecisionScheduleConfig config;
  config.min_bits = low;
  config.max_bits = high;
  config.cycles = cycles;
  config.grad_min_bits = gradient;
  const PrecisionSchedule schedule(config, {2, 3, 4, 5, 6, 7, 8}, steps);
  BitopsTotal cyclic, constant;
  for (std::int64_t step = 0; step < steps; ++step) {
    const ScheduledBits bits = schedule.at(step);
    cyclic.add(std::vector<LayerWork>{{1.0, {bits.weight, bits.weight, bits.gradient}}});
    constant.add(std::vector<LayerWork>{{1.0, {fixed, fixed, gradient}}});
  }
  return 100.0 * (1.0 - cyclic.spent / constant.spent);
}

// The figures that the CPT paper (arXiv:2101.09868) gives for the saving over static precision. They follow from its
// setting on CIFAR, 64,000 iterations in 32 cycles, and from counting forward, error and gradient multiplications.
TEST(BitopsTotal, ReproducesThePapersSavings) {
  EXPECT_NEAR(reduction(3, 8, /*fixed=*/8, /*gradient=*/8, 64000, 32), 36.67, 0.005);
  EXPECT_NEAR(reduction(3, 6, /*fixed=*/6, /*gradient=*/6, 64000, 32), 30.05, 0.005);
  EXPECT_NEAR(reduction(4, 8, /*fixed=*/8, /*gradient=*/8, 64000, 32), 30.11, 0.005);
}

TEST(Bitops, CountsTheThreeMultiplicationsOfALayer) {
  const Bitops cost = layer_bitops({10.0, {4, 6, 8}});
  EXPECT_EQ(cost.forward, 10.0 * 4 * 6);
  EXPECT_EQ(cost.input_gradient, 10.0 * 4 * 8);
  EXPECT_EQ(cost.weight_gradient, 10.0 * 6 * 8);
  EXPECT_EQ(cost.total(), 1040.0);
}

TEST(Bitops, AFrozenLayerHasNoWeightGradientAndTheLowestNoInputGradient) {
  EXPECT_EQ(layer_bitops({10.0, {4, 6, 8}, true, false}).total(), 240.0 + 320.0);
  EXPECT_EQ(layer_bitops({10.0, {4, 6, 8}, false, true}).total(), 240.0 + 480.0);
}

TEST(Bitops, RatiosAreRelativeTo32Bits) {
  EXPECT_DOUBLE_EQ(training_bitops_ratio({8, 8, 8}), 1.0 / 16.0);
  EXPECT_DOUBLE_EQ(training_bitops_ratio({4, 8, 32}), (32.0 + 128.0 + 256.0) / 3072.0);
  EXPECT_DOUBLE_EQ(training_bitops_ratio({}), 1.0);
  EXPECT_DOUBLE_EQ(forward_bitops_ratio({4, 8, 32}), 32.0 / 1024.0);
}

TEST(BitopsTotal, AddsLayersOfDifferentWidths) {
  const std::vector<LayerWork> layers = {{100.0, {8, 8, 8}}, {50.0, {32, 32, 32}}, {20.0, {4, 4, 8}, true, false}};
  BitopsTotal total;
  EXPECT_EQ(total.ratio(), 1.0);
  total.add(layers);
  total.add(layers);
  const double spent = 100.0 * 192 + 50.0 * 3072 + 20.0 * (16 + 32);
  const double at_full = 150.0 * 3072 + 20.0 * 2048;  // the frozen layer has two multiplications at any width
  EXPECT_EQ(total.steps, 2);
  EXPECT_DOUBLE_EQ(total.spent, 2 * spent);
  EXPECT_DOUBLE_EQ(total.ratio(), spent / at_full);
  EXPECT_DOUBLE_EQ(step_bitops(layers).total(), spent);
}

TEST(BitopsTotal, WhatAStepAt32BitsDoesWithoutCountsInNoReference) {
  BitopsTotal total;
  total.add(std::vector<LayerWork>{{100.0, {8, 8, 8}}, {.macs = 10.0, .bits = {8, 32, 32}, .at_full = false}});
  EXPECT_DOUBLE_EQ(total.spent, 100.0 * 192 + 10.0 * (256 + 256 + 1024));
  EXPECT_DOUBLE_EQ(total.at_full, 100.0 * 3072);
}

}  // namespace
}  // namespace qat
