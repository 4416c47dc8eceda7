// Masked targets and uneven micro-batches: what they add up to is the mean over the valid targets of them all.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <vector>

#include "kernels/loss/softmax_cross_entropy.h"
#include "src/loss/lm_head_loss.h"
#include "tests/support/head_models.h"

namespace qat {
namespace {

using kernels::kIgnoredTarget;
using test::Head;
using test::model_with;
using test::TinyModel;

struct PassSum {
  double loss = 0.0;
  std::vector<at::Tensor> gradients;
  void add(const LossAndGradients& pass, double factor = 1.0) {
    loss += factor * pass.loss.item<double>();
    for (std::size_t i = 0; i < pass.gradients.parameters.size(); ++i) {
      const at::Tensor& g = pass.gradients.parameters[i];
      if (gradients.size() <= i) gradients.emplace_back();
      if (g.defined()) gradients[i] = gradients[i].defined() ? gradients[i] + factor * g : factor * g;
    }
  }
};

void expect_close(const PassSum& got, const PassSum& want, double tolerance) {
  EXPECT_NEAR(got.loss, want.loss, tolerance * std::abs(want.loss));
  ASSERT_EQ(got.gradients.size(), want.gradients.size());
  for (std::size_t i = 0; i < want.gradients.size(); ++i) {
    ASSERT_EQ(got.gradients[i].defined(), want.gradients[i].defined()) << i;
    if (!want.gradients[i].defined()) continue;
    EXPECT_LE((got.gradients[i] - want.gradients[i]).norm().item<double>(),
              tolerance * want.gradients[i].norm().item<double>() + 1e-9)
        << i;
  }
}

class MaskedLoss : public ::testing::TestWithParam<Head> {};

// The loss by LibTorch, of the model's own logits; gradients by central differences along one direction of all
// parameters.
TEST_P(MaskedLoss, IsTheMeanOverTheValidTargets) {
  const TinyModel tiny = model_with(GetParam());
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 32, 32);
  const ForwardContext context = tiny.context(map);
  const at::Tensor tokens = tiny.tokens(3, 9);
  at::Tensor targets = tiny.tokens(3, 9, 8);
  targets.index_put_({0}, kIgnoredTarget);
  targets.index_put_({1, 4}, kIgnoredTarget);
  const std::int64_t valid = 27 - 9 - 1;
  const LossScale scale{.tokens = static_cast<double>(valid), .weight = 0.5};
  const auto reference = [&] {
    const at::NoGradGuard no_grad;
    const at::Tensor z = tiny.model->logits(tiny.model->hidden(tokens, context), context).reshape({27, -1});
    return at::nll_loss(at::log_softmax(z.to(at::kDouble), 1), targets.reshape({-1})).item<double>();
  };
  const LossAndGradients pass = tiny.model->loss_and_gradients({.tokens = tokens}, targets, context, scale);
  EXPECT_NEAR(pass.loss.item<double>(), reference(), 1e-5);

  torch::manual_seed(9);
  const test::Direction direction(tiny);
  const double slope = direction.slope(pass.gradients.parameters);
  EXPECT_NEAR(slope, 0.5 * direction.difference(1e-4, reference), 2e-2 * std::abs(slope) + 1e-3);
}

// Passes of 3, 1 and 2 sequences with 17, 0 and 18 valid targets, averaged as a step averages its micro-batches.
TEST_P(MaskedLoss, UnevenMicroBatchesAddUpToTheWholeBatch) {
  const TinyModel tiny = model_with(GetParam());
  for (const int bits : {32, 8}) {
    const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), bits, bits, 32);
    const ForwardContext context = tiny.context(map);
    const at::Tensor tokens = tiny.tokens(6, 9);
    at::Tensor targets = tiny.tokens(6, 9, 8);
    targets.index_put_({0}, kIgnoredTarget);
    targets.index_put_({1, 4}, kIgnoredTarget);
    targets.index_put_({3}, kIgnoredTarget);
    const double valid = 54 - 9 - 1 - 9;
    PassSum whole, parts, naive;
    whole.add(tiny.model->loss_and_gradients({.tokens = tokens}, targets, context, {.tokens = valid}));
    std::int64_t begin = 0;
    for (const std::int64_t rows : {3, 1, 2}) {
      const at::Tensor in = tokens.narrow(0, begin, rows), out = targets.narrow(0, begin, rows);
      begin += rows;
      parts.add(tiny.model->loss_and_gradients({.tokens = in}, out, context, {.tokens = valid / 3}), 1.0 / 3);
      const double own = out.ne(kIgnoredTarget).sum().item<double>();
      naive.add(tiny.model->loss_and_gradients({.tokens = in}, out, context, {.tokens = std::max(own, 1.0)}), 1.0 / 3);
    }
    expect_close(parts, whole, 1e-4);
    EXPECT_GT(std::abs(naive.loss - whole.loss), 1e-2) << "a mean of means is another number";
  }
}

TEST_P(MaskedLoss, WithoutMasksTheCountOfTheTargetsIsTheDefaultToTheBit) {
  const TinyModel tiny = model_with(GetParam());
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 8, 8, 8);
  const at::Tensor tokens = tiny.tokens(2, 7);
  at::Tensor targets = tiny.tokens(2, 7, 8);
  const LossAndGradients plain = tiny.model->loss_and_gradients({.tokens = tokens}, targets, tiny.context(map));
  // As a step of seven micro-batches counts: its 98 valid targets / 7.
  const LossAndGradients counted = tiny.model->loss_and_gradients({.tokens = tokens}, targets, tiny.context(map),
                                                                  {.tokens = 98.0 / 7.0, .weight = 1.0});
  EXPECT_TRUE(at::equal(plain.loss, counted.loss));
  for (std::size_t i = 0; i < plain.gradients.parameters.size(); ++i)
    if (const at::Tensor& g = plain.gradients.parameters[i]; g.defined()) {
      EXPECT_TRUE(at::equal(g, counted.gradients.parameters[i])) << i;
    }
}

TEST_P(MaskedLoss, MaskedTokensHaveNoLossOfTheirOwnEither) {
  const TinyModel tiny = model_with(GetParam());
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 8, 8, 8);
  const at::Tensor tokens = tiny.tokens(2, 7);
  at::Tensor targets = tiny.tokens(2, 7, 8);
  const at::Tensor all = tiny.model->token_nll(tokens, targets, tiny.context(map)).clone();
  targets.index_put_({1, 3}, kIgnoredTarget);
  const at::Tensor masked = tiny.model->token_nll(tokens, targets, tiny.context(map));
  EXPECT_EQ(masked.index({1, 3}).item<float>(), 0.0F);
  EXPECT_TRUE(at::equal(masked.narrow(0, 0, 1), all.narrow(0, 0, 1)));
}

INSTANTIATE_TEST_SUITE_P(Heads, MaskedLoss, test::all_heads(), test::head_name);

}  // namespace
}  // namespace qat
