// Products of codes of 9 to 11 bits against their definition in double.
#include "src/quant/wide_codes.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "src/quant/quantizer.h"
#include "tests/support/linear_products.h"

namespace qat {
namespace {

using test::float_linear;
using test::wide_code_linear;

class WideCodesAtWidth : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    torch::manual_seed(23);
    x = at::randn({2, 5, 48}).requires_grad_(true);
    w = (at::randn({12, 48}) * 0.02).requires_grad_(true);
    bias = at::randn({12}).requires_grad_(true);
    xq = Quantizer("layer", "activation", {.granularity = Granularity::kToken}).encode_wide(x, BitWidth(GetParam()));
    wq = Quantizer("layer", "weight", {.granularity = Granularity::kChannel}).encode_wide(w, BitWidth(GetParam()));
  }
  static at::Tensor values(const WideCoded& coded) {
    return coded.codes.to(at::kDouble) * coded.scales.to(at::kDouble).unsqueeze(1);
  }
  at::Tensor x, w, bias;
  WideCoded xq, wq;
};

TEST_P(WideCodesAtWidth, CodesAreTheNearestIntegersOfTheWidth) {
  const double most = std::pow(2.0, GetParam() - 1) - 1;
  const at::Tensor rows = x.detach().view({10, 48}).to(at::kDouble);
  const at::Tensor largest = std::get<0>(rows.abs().max(1));
  EXPECT_TRUE(at::allclose(xq.scales.to(at::kDouble), largest / most, 1e-6));
  const at::Tensor codes = xq.codes.to(at::kDouble);
  EXPECT_EQ(codes.abs().max().item<double>(), most);
  EXPECT_TRUE(at::equal(codes, codes.round()));
  EXPECT_LE((rows / xq.scales.to(at::kDouble).unsqueeze(1) - codes).abs().max().item<double>(), 0.5001);
}

TEST_P(WideCodesAtWidth, ForwardIsTheProductOfTheQuantizedValues) {
  const at::Tensor y = wide_code_linear(x, w, bias, xq, wq, {});
  const at::Tensor want = at::mm(values(xq), values(wq).t()) + bias.to(at::kDouble);
  EXPECT_EQ(y.sizes(), at::IntArrayRef({2, 5, 12}));
  EXPECT_TRUE(at::allclose(y.view({10, 12}).to(at::kDouble), want, 1e-5, 1e-6));
}

TEST_P(WideCodesAtWidth, GradientsPassStraightThroughTheQuantizedOperands) {
  const at::Tensor g = at::randn({2, 5, 12}) * 1e-3;
  wide_code_linear(x, w, bias, xq, wq, {}).backward(g);
  const at::Tensor rows = g.view({10, 12}).to(at::kDouble);
  EXPECT_TRUE(at::allclose(x.grad().view({10, 48}).to(at::kDouble), at::mm(rows, values(wq)), 1e-4, 1e-9));
  EXPECT_TRUE(at::allclose(w.grad().to(at::kDouble), at::mm(rows.t(), values(xq)), 1e-4, 1e-8));
  EXPECT_TRUE(at::allclose(bias.grad().to(at::kDouble), rows.sum(0), 1e-5, 1e-9));
}

INSTANTIATE_TEST_SUITE_P(Widths, WideCodesAtWidth, ::testing::Values(9, 10, 11));

TEST(WideCodes, RoundedGradientsAreThoseOfFloatLinear) {
  torch::manual_seed(29);
  const at::Tensor x = at::randn({7, 16}).requires_grad_(true), w = at::randn({4, 16}).requires_grad_(true);
  const BitWidth width(10);
  const WideCoded xq = Quantizer("layer", "activation", {.granularity = Granularity::kToken}).encode_wide(x, width);
  const WideCoded wq = Quantizer("layer", "weight", {.granularity = Granularity::kChannel}).encode_wide(w, width);
  const GradientRounding rounding{.width = BitWidth(6), .stochastic = true, .key = {.seed = 3, .stream = 4}};
  const at::Tensor g = at::randn({7, 4}), bias = at::zeros({4}).requires_grad_(true);
  wide_code_linear(x, w, bias, xq, wq, rounding).backward(g);
  const at::Tensor wide_dx = x.grad().clone(), wide_dw = w.grad().clone();

  const auto leaf = [](const WideCoded& coded) {
    return (coded.codes.to(at::kFloat) * coded.scales.unsqueeze(1)).requires_grad_(true);
  };
  const at::Tensor xf = leaf(xq), wf = leaf(wq);
  float_linear(xf, wf, {}, rounding).backward(g);
  EXPECT_TRUE(at::equal(wide_dx, xf.grad()));
  EXPECT_TRUE(at::equal(wide_dw, wf.grad()));
  EXPECT_TRUE(at::allclose(bias.grad(), g.sum(0)));  // a bias sums the gradient as it is
}

}  // namespace
}  // namespace qat
