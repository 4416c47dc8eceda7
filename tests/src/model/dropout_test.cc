#include "src/model/dropout.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace qat {
namespace {

const kernels::RngKey kKey{.seed = 12, .stream = 34};

TEST(CounterDropout, DropsTheAskedShareAndScalesTheRest) {
  const double p = 0.3;
  const at::Tensor y = counter_dropout(at::ones({100, 200}), p, kKey);
  EXPECT_NEAR((y == 0).to(at::kDouble).mean().item<double>(), p, 0.02);
  const at::Tensor kept = y.masked_select(y != 0);
  EXPECT_TRUE(at::allclose(kept, at::full_like(kept, 1.0 / (1.0 - p))));
}

TEST(CounterDropout, TheGradientPassesWhereTheValuesDid) {
  torch::manual_seed(1);
  const at::Tensor x = at::randn({9, 31}).requires_grad_(true), g = at::randn({9, 31});
  const at::Tensor mask = dropped(at::ones({9, 31}), 0.4, kKey);
  const at::Tensor y = counter_dropout(x, 0.4, kKey);
  EXPECT_TRUE(at::allclose(y, x * mask));
  y.backward(g);
  EXPECT_TRUE(at::allclose(x.grad(), g * mask));
}

TEST(CounterDropout, DropsByPlaceInTheTensorHoweverItLiesInMemory) {
  const at::Tensor x = at::arange(60, at::kFloat).view({6, 10}).add(1.0);
  EXPECT_TRUE(at::equal(dropped(x.t().contiguous().t(), 0.5, kKey), dropped(x, 0.5, kKey)));
}

TEST(CounterDropout, OtherKeysDropOtherPlaces) {
  const at::Tensor x = at::ones({8, 64}), y = dropped(x, 0.5, kKey);
  EXPECT_TRUE(at::equal(dropped(x, 0.5, kKey), y));
  EXPECT_FALSE(at::equal(dropped(x, 0.5, {.seed = 13, .stream = 34}), y));
  EXPECT_FALSE(at::equal(dropped(x, 0.5, {.seed = 12, .stream = 35}), y));
}

}  // namespace
}  // namespace qat
