// The products of a quantized linear layer, forward and backward, against their formulas written out.
#include "src/quant/linear_pass.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <set>

#include "src/base/rng.h"
#include "src/quant/straight_through.h"
#include "tests/support/linear_products.h"

namespace qat {
namespace {

using test::code_linear;
using test::float_linear;

const QuantizerConfig kPerRow{.granularity = Granularity::kChannel};
const QuantizerConfig kPerTensor{.granularity = Granularity::kTensor};

at::Tensor exact_values(const Coded& coded) {
  return coded.codes.to(at::kDouble) * coded.scales.to(at::kDouble).unsqueeze(1);
}

struct Linear {
  explicit Linear(int bits, const QuantizerConfig& act = kPerRow, const QuantizerConfig& weight = kPerRow)
      : width(bits) {
    torch::manual_seed(17);
    x = at::randn({7, 33}).requires_grad_(true);
    w = at::randn({12, 33}).requires_grad_(true);
    bias = at::randn({12}).requires_grad_(true);
    g = at::randn({7, 12}) * 1e-3;
    xq = Quantizer("layer", "activation", act).encode(x, width, true);
    wq = Quantizer("layer", "weight", weight).encode(w, width, true);
  }
  BitWidth width;
  at::Tensor x, w, bias, g;
  Coded xq, wq;
};

class CodeLinearAtWidth : public ::testing::TestWithParam<int> {};

TEST_P(CodeLinearAtWidth, EqualsFakeQuantizationInExactArithmetic) {
  const Linear l(GetParam());
  const at::Tensor y = code_linear(l.x, l.w, l.bias, l.xq, l.wq, {});
  const at::Tensor exact = at::mm(exact_values(l.xq), exact_values(l.wq).t()) + l.bias.to(at::kDouble);
  // Only the scales' product, the conversion of the sum and the bias are rounded: a few ulp.
  EXPECT_LT((y.to(at::kDouble) - exact).abs().max().item<double>(), 1e-6 * exact.abs().max().item<double>());
}

TEST_P(CodeLinearAtWidth, FullPrecisionGradientsPassStraightThroughTheQuantizedOperands) {
  const Linear l(GetParam());
  code_linear(l.x, l.w, l.bias, l.xq, l.wq, {}).backward(l.g);
  const at::Tensor dx = at::mm(l.g.to(at::kDouble), exact_values(l.wq)),
                   dw = at::mm(l.g.to(at::kDouble).t(), exact_values(l.xq));
  EXPECT_TRUE(at::allclose(l.x.grad().to(at::kDouble), dx, 1e-5, 1e-8));
  EXPECT_TRUE(at::allclose(l.w.grad().to(at::kDouble), dw, 1e-5, 1e-8));
  EXPECT_TRUE(at::allclose(l.bias.grad(), l.g.sum(0)));
}

// 8-bit gradients, rounded to nearest, written out in double.
TEST_P(CodeLinearAtWidth, EightBitGradientsAreTheFormula) {
  const Linear l(GetParam());
  code_linear(l.x, l.w, l.bias, l.xq, l.wq, {.width = BitWidth(8)}).backward(l.g);
  const auto rounded = [](const at::Tensor& t, int dim) {
    const at::Tensor scale = t.abs().amax(dim, /*keepdim=*/true) / 127.0;
    return at::round(t / scale) * scale;
  };
  const at::Tensor g = l.g.to(at::kDouble);
  const at::Tensor sw = l.wq.scales.to(at::kDouble), sx = l.xq.scales.to(at::kDouble);
  const at::Tensor dx = at::mm(rounded(g * sw.unsqueeze(0), 1), l.wq.codes.to(at::kDouble));
  const at::Tensor dw = at::mm(rounded(g * sx.unsqueeze(1), 0).t(), l.xq.codes.to(at::kDouble));
  // A value on a rounding boundary may fall either way in fp32: allow one code of one gradient.
  EXPECT_LT((l.x.grad() - dx).norm().item<double>(), 2e-3 * dx.norm().item<double>());
  EXPECT_LT((l.w.grad() - dw).norm().item<double>(), 2e-3 * dw.norm().item<double>());
  EXPECT_TRUE(at::allclose(l.bias.grad(), l.g.sum(0)));  // sums the gradient as it is
  // And they are not the unquantized gradients.
  const at::Tensor plain = at::mm(g, exact_values(l.wq));
  EXPECT_GT((l.x.grad() - plain).norm().item<double>(), 1e-4 * plain.norm().item<double>());
}

INSTANTIATE_TEST_SUITE_P(Widths, CodeLinearAtWidth, ::testing::Values(2, 3, 4, 5, 6, 7, 8));

TEST(CodeLinear, WholeTensorScalesGiveTheSameFormula) {
  for (const bool eight_bit : {false, true}) {
    const Linear l(6, kPerTensor, kPerTensor);
    ASSERT_EQ(l.xq.scales.numel(), 1);
    const at::Tensor y = code_linear(l.x, l.w, l.bias, l.xq, l.wq,
                                     eight_bit ? GradientRounding{.width = BitWidth(8)} : GradientRounding{});
    const at::Tensor exact = at::mm(exact_values(l.xq), exact_values(l.wq).t()) + l.bias.to(at::kDouble);
    EXPECT_TRUE(at::allclose(y.to(at::kDouble), exact, 1e-5, 1e-6));
    y.backward(l.g);
    const at::Tensor dx = at::mm(l.g.to(at::kDouble), exact_values(l.wq)),
                     dw = at::mm(l.g.to(at::kDouble).t(), exact_values(l.xq));
    const double tolerance = eight_bit ? 0.02 : 1e-5;
    EXPECT_LT((l.x.grad() - dx).norm().item<double>(), tolerance * dx.norm().item<double>());
    EXPECT_LT((l.w.grad() - dw).norm().item<double>(), tolerance * dw.norm().item<double>());
  }
}

TEST(CodeLinear, StochasticGradientsAreUnbiasedAndRepeatable) {
  const Linear l(8);
  const auto gradient = [&](std::uint64_t step) {
    l.x.mutable_grad().reset();
    const GradientRounding rounding{
        .width = BitWidth(4), .stochastic = true, .key = rng_key(1, RngPurpose::kGradientRounding, step, 0, 0)};
    code_linear(l.x, l.w, l.bias, l.xq, l.wq, rounding).backward(l.g);
    return l.x.grad().clone();
  };
  EXPECT_TRUE(at::equal(gradient(5), gradient(5)));
  EXPECT_FALSE(at::equal(gradient(5), gradient(6)));
  at::Tensor mean = at::zeros_like(l.x);
  constexpr int kDraws = 400;
  for (int i = 0; i < kDraws; ++i) mean += gradient(static_cast<std::uint64_t>(i)) / kDraws;
  const at::Tensor exact = at::mm(l.g, exact_values(l.wq).to(at::kFloat));
  const double once = ((gradient(0) - exact).norm() / exact.norm()).item<double>();
  const double averaged = ((mean - exact).norm() / exact.norm()).item<double>();
  EXPECT_LT(averaged, once / 8);  // the error of 400 draws falls as 1/sqrt(400) = 1/20 only without bias
}

// Codes with scales folded in against the values that they stand for, drawn at the same places of the same streams.
TEST(CodeLinear, TheTwoGradientsDrawFromTheirOwnStreams) {
  const Linear l(8);
  for (const int bits : {4, 8}) {
    const GradientRounding rounding{.width = BitWidth(bits), .stochastic = true, .key = {.seed = 3, .stream = 4}};
    const auto g = torch::autograd::grad({code_linear(l.x, l.w, l.bias, l.xq, l.wq, rounding)}, {l.x, l.w}, {l.g});
    const at::Tensor rows = rounded_gradient(l.g * l.wq.scales, rounding, Draw::kInput);
    const at::Tensor cols = rounded_gradient(l.g * l.xq.scales.unsqueeze(1), rounding, Draw::kWeight);
    EXPECT_TRUE(at::allclose(g[0], at::mm(rows, l.wq.codes.to(at::kFloat)), 1e-4, 1e-7));
    EXPECT_TRUE(at::allclose(g[1], at::mm(cols.t(), l.xq.codes.to(at::kFloat)), 1e-4, 1e-7));
  }
}

// Rounded to nearest in double, one scale a row (dim 1) or a column (dim 0).
at::Tensor rounded(const at::Tensor& g, int bits, int dim) {
  const at::Tensor t = g.to(at::kDouble);
  const at::Tensor scale = t.abs().amax(dim, /*keepdim=*/true) / (std::pow(2.0, bits - 1) - 1.0);
  return at::round(t / scale) * scale;
}

TEST(GradientsAbove8Bits, RoundRowsForTheInputAndColumnsForTheWeight) {
  const Linear l(8);
  const at::Tensor g = l.g * at::logspace(0, 2, 7).unsqueeze(1) * at::logspace(0, 2, 12);  // every group its own scale
  const at::Tensor dx = at::mm(rounded(g, 9, 1), exact_values(l.wq)),
                   dw = at::mm(rounded(g, 9, 0).t(), exact_values(l.xq));
  const GradientRounding rounding{.width = BitWidth(9)};
  const at::Tensor xf = exact_values(l.xq).to(at::kFloat).requires_grad_(true),
                   wf = exact_values(l.wq).to(at::kFloat).requires_grad_(true);
  const auto codes =
      torch::autograd::grad({code_linear(l.x, l.w, l.bias, l.xq, l.wq, rounding)}, {l.x, l.w, l.bias}, {g});
  const auto floats = torch::autograd::grad({float_linear(xf, wf, l.bias, rounding)}, {xf, wf, l.bias}, {g});
  for (const auto& got : {codes, floats}) {
    // A value on a rounding boundary may fall either way in fp32: allow one code of one gradient.
    EXPECT_LT((got[0] - dx).norm().item<double>(), 5e-4 * dx.norm().item<double>());
    EXPECT_LT((got[1] - dw).norm().item<double>(), 5e-4 * dw.norm().item<double>());
    EXPECT_TRUE(at::allclose(got[2], g.sum(0)));
  }
}

TEST(FakeQuantGradient, KeepsGradientsFarBelowTheFloorOfWeights) {
  torch::manual_seed(6);
  const at::Tensor g = at::randn({4, 50}) * 1e-12;
  for (const int bits : {8, 10}) {
    for (const Draw draw : {Draw::kInput, Draw::kWeight}) {
      const at::Tensor got = rounded_gradient(g, {.width = BitWidth(bits)}, draw);
      EXPECT_LT((got - g).norm().item<double>(), 0.02 * g.norm().item<double>()) << bits;
    }
  }
}

// What the matrices of an adapter receive.
TEST(RoundGradient, RoundsAtWidthsWithoutCodesToo) {
  torch::manual_seed(1);
  const at::Tensor g = at::randn({3, 20});
  at::Tensor got = g.clone();
  round_gradient_(got, {.width = BitWidth(10)});
  EXPECT_TRUE(at::allclose(got.to(at::kDouble), rounded(g, 10, 1), 1e-5, 1e-7));
  EXPECT_FALSE(at::equal(got, g));
}

TEST(RoundGradient, LeavesAtMostTheLevelsOfItsWidthInEachRow) {
  torch::manual_seed(1);
  const at::Tensor g = at::randn({3, 500});
  at::Tensor got = g.clone();
  round_gradient_(got, {.width = BitWidth(3)});
  for (int row = 0; row < 3; ++row) {
    const at::Tensor values = got[row].contiguous();
    const std::set<float> distinct(values.data_ptr<float>(), values.data_ptr<float>() + values.numel());
    EXPECT_LE(distinct.size(), 7U);
    EXPECT_GE(distinct.size(), 6U);
  }
  EXPECT_FALSE(at::equal(got, g));
}

TEST(StraightThrough, PassesValuesForwardAndGradientsBack) {
  const at::Tensor x = at::tensor({1.0F, -2.0F, 3.0F}).requires_grad_(true);
  const at::Tensor q = at::tensor({1.5F, -2.5F, 3.5F}), g = at::tensor({4.0F, -40.0F, 40.0F});
  const at::Tensor y = straight_through(x, q);
  EXPECT_TRUE(at::equal(y, q));
  y.backward(g);
  EXPECT_TRUE(at::equal(x.grad(), g));
}

TEST(FloatLinear, FullPrecisionGradientsAreAutograds) {
  torch::manual_seed(2);
  const at::Tensor x = at::randn({2, 5, 6}).requires_grad_(true), w = at::randn({4, 6}).requires_grad_(true);
  const at::Tensor b = at::randn({4}).requires_grad_(true), g = at::randn({2, 5, 4});
  // 18 bits is as good as exact for this comparison, and takes the function's own backward.
  float_linear(x, w, b, {.width = BitWidth(18)}).backward(g);
  const at::Tensor dx = x.grad().clone(), dw = w.grad().clone(), db = b.grad().clone();
  x.mutable_grad().reset(), w.mutable_grad().reset(), b.mutable_grad().reset();
  at::linear(x, w, b).backward(g);
  EXPECT_TRUE(at::allclose(dx, x.grad(), 1e-3, 1e-4));
  EXPECT_TRUE(at::allclose(dw, w.grad(), 1e-3, 1e-4));
  EXPECT_TRUE(at::allclose(db, b.grad()));
}

// Where the sink wants them, and once for each parameter.
class RecordingSink : public GradientSink {
 public:
  at::Tensor open(int id) override {
    opened_ids.push_back(id);
    return id == 0 ? place : at::Tensor();
  }
  at::Tensor opened(int /*id*/) override { return {}; }
  void written(int id) override { written_ids.push_back(id); }

  at::Tensor place;
  std::vector<int> opened_ids, written_ids;
};

TEST(LinearPass, BackwardAsksTheSinkAndForwardDoesNot) {
  for (const int gradient : {8, 32}) {
    for (const bool shared : {false, true}) {
      SCOPED_TRACE(std::to_string(gradient) + (shared ? " shared" : ""));
      const Linear l(6);
      auto prepared = std::make_shared<PreparedLinear>();
      prepared->weight.codes = l.wq;
      prepared->bias = l.bias.detach();
      prepared->one = at::ones({1});
      RecordingSink sink;
      sink.place = at::full({12, 33}, 5.0F);
      LinearPass pass;
      pass.prepared = prepared;
      pass.rounding.base = {.width = BitWidth(gradient)};
      pass.weight = {l.w, 0}, pass.bias = {l.bias, 1};
      pass.weight_has_other_uses = shared;
      pass.sink = &sink;
      Coded input = l.xq;
      if (gradient > 8) input.codes_transposed.reset();
      const at::Tensor y = quantized_linear(l.x, {.codes = input}, pass);
      EXPECT_TRUE(sink.opened_ids.empty());
      const auto got = torch::autograd::grad({y}, {l.w, l.bias}, {l.g});
      const auto want = torch::autograd::grad(
          {code_linear(l.x, l.w, l.bias, l.xq, l.wq, {.width = BitWidth(gradient)})}, {l.w, l.bias}, {l.g});
      EXPECT_TRUE(at::equal(got[0], want[0]));
      EXPECT_TRUE(at::equal(got[1], want[1]));
      EXPECT_EQ(sink.opened_ids, shared ? std::vector<int>{1} : (std::vector<int>{0, 1}));
      EXPECT_EQ(sink.written_ids, shared ? std::vector<int>{} : std::vector<int>{0});
      EXPECT_EQ(got[0].const_data_ptr() == sink.place.const_data_ptr(), !shared);
    }
  }
}

}  // namespace
}  // namespace qat
