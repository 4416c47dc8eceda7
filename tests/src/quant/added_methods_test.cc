// Quantizers beside min-max and log: values worked out by hand, and gradients against autograd on the formulas.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <set>

#include "src/quant/gradient_rule.h"
#include "src/quant/quantizer.h"

namespace qat {
namespace {

at::Tensor row(const std::vector<float>& values) { return at::tensor(values).unsqueeze(0); }

// docs/numerics.md, "Checks of the others".
const std::vector<float> kNine = {-1.0F, -0.6F, -0.25F, -0.04F, 0.0F, 0.02F, 0.13F, 0.5F, 0.9F};
const std::vector<float> kFour = {-0.3F, -0.1F, 0.05F, 0.2F};

void expect_values(const QuantizerConfig& config, int bits, const std::vector<float>& x, const std::vector<float>& y,
                   const CalibratedRange* range = nullptr) {
  const at::Tensor got = Quantizer("layer", "weight", config).fake_quant(row(x), BitWidth(bits), range);
  EXPECT_TRUE(at::allclose(got, row(y), /*rtol=*/0, /*atol=*/2e-6)) << enum_name(config.method) << bits << got;
}

CalibratedRange measured(const QuantizerConfig& config, int bits, const at::Tensor& x) {
  return Quantizer("layer", "weight", config).measure(x, BitWidth(bits));
}

TEST(AddedMethods, LlmQatIsItsFormula) {
  const QuantizerConfig rows{.method = QuantizerKind::kLlmQat, .granularity = Granularity::kChannel};
  expect_values(rows, 1, kFour, {-0.1625F, -0.1625F, 0.1625F, 0.1625F});
  expect_values(rows, 2, kFour, {-0.24375F, -0.08125F, 0.08125F, 0.24375F});
  expect_values(rows, 4, kFour, {-0.300001F, -0.0857146F, 0.0428573F, 0.2142864F});
  const QuantizerConfig affine{
      .method = QuantizerKind::kLlmQat, .symmetric = false, .granularity = Granularity::kToken};
  expect_values(affine, 2, {-0.3F, 0.0F, 0.1F, 0.6F}, {-0.3F, 0.0F, 0.0F, 0.6F});
  for (const int bits : {1, 2, 3, 8}) expect_values(rows, bits, {0.0F, 0.0F}, {0.0F, 0.0F});
}

TEST(AddedMethods, CptStepsUpFromTheSmallestValue) {
  const QuantizerConfig config{.method = QuantizerKind::kCpt, .granularity = Granularity::kChannel};
  expect_values(config, 2, {-1.0F, 0.0F, 0.3F, 0.5F, 1.6F}, {-1.0F, -0.133333F, 0.733333F, 0.733333F, 1.6F});
  expect_values(config, 3, {0.25F, 0.25F}, {0.25F, 0.25F});
  const CalibratedRange range{.lo = at::tensor({0.0F}), .hi = at::tensor({3.0F}), .mean = {}};
  expect_values(config, 2, {-5.0F, 1.4F, 9.0F}, {0.0F, 1.0F, 3.0F}, &range);
}

// The scale is that of the width in use: 2 a / (2^b - 1), whatever another width's was.
TEST(AddedMethods, EmaHasAScaleOfItsOwnAtEveryWidth) {
  const QuantizerConfig config{
      .method = QuantizerKind::kEma, .granularity = Granularity::kTensor, .range = RangeSource::kRunning};
  const CalibratedRange range{.lo = at::tensor({-1.0F}), .hi = at::tensor({0.9F}), .mean = {}};
  const double s = 2.0 / 15.0;
  const auto k = [&](int code) { return static_cast<float>(code * s); };
  expect_values(config, 4, {-1.2F, -0.61F, -0.25F, 0.0F, 0.13F, 0.5F, 0.9F}, {k(-8), k(-5), k(-2), 0, k(1), k(4), k(7)},
                &range);
  const Quantizer quantizer("layer", "activation", config);
  for (int bits = 2; bits <= 16; ++bits) {
    const at::Tensor y = quantizer.fake_quant(at::linspace(-1.2, 1.2, 9999).unsqueeze(0), BitWidth(bits), &range);
    const double step = 2.0 / ((1 << bits) - 1);
    EXPECT_NEAR(y.min().item<double>(), -step * (1 << (bits - 1)), 1e-6) << bits;
    EXPECT_NEAR(y.max().item<double>(), step * ((1 << (bits - 1)) - 1), 1e-6) << bits;
  }
}

TEST(AddedMethods, LsqBeginsWithTheMeanMagnitudeAndClipsToSignedCodes) {
  const QuantizerConfig config{
      .method = QuantizerKind::kLsq, .granularity = Granularity::kTensor, .range = RangeSource::kLearned};
  EXPECT_NEAR(measured(config, 4, row(kFour)).mean.item<double>(), 2.0 * 0.1625 / std::sqrt(7.0), 1e-7);
  const CalibratedRange range{.lo = {}, .hi = {}, .mean = at::tensor({0.25F})};
  expect_values(config, 2, kNine, {-0.5F, -0.5F, -0.25F, 0, 0, 0, 0.25F, 0.25F, 0.25F}, &range);
  expect_values(config, 3, kNine, {-1.0F, -0.5F, -0.25F, 0, 0, 0, 0.25F, 0.5F, 0.75F}, &range);
  EXPECT_EQ(Quantizer("layer", "activation", config).count_beyond(row(kNine), BitWidth(3), range).item<int>(), 1);
}

TEST(AddedMethods, GroupwiseHasAScaleAndAZeroPointForEachGroup) {
  const QuantizerConfig config{.method = QuantizerKind::kGroupwise,
                               .granularity = Granularity::kChannel,
                               .range = RangeSource::kLearned,
                               .group_size = 4};
  const at::Tensor x = at::cat({row(kFour), 10.0 * row(kFour)}, 1);
  const CalibratedRange range = measured(config, 2, x);
  EXPECT_TRUE(at::allclose(range.lo, at::tensor({0.5F / 3, 5.0F / 3})));
  EXPECT_TRUE(at::equal(range.hi, at::tensor({2.0F, 2.0F})));
  const float s = 0.5F / 3;
  expect_values(config, 2, {-0.3F, -0.1F, 0.05F, 0.2F, -3, -1, 0.5F, 2},
                {-2 * s, -s, 0, s, -20 * s, -10 * s, 0, 10 * s}, &range);
  QuantizerConfig whole = config;
  whole.group_size = 0;
  EXPECT_EQ(measured(whole, 2, x).lo.numel(), 1);
  // What the page works out: one row, gradients of ones.
  const QuantGradients found =
      Quantizer("layer", "weight", config)
          .backward(
              at::ones({1, 4}), row(kFour), BitWidth(2),
              [&] {
                static const CalibratedRange one{.lo = at::tensor({s}), .hi = at::tensor({2.0F}), .mean = {}};
                return &one;
              }(),
              1);
  EXPECT_NEAR(found.trained[0].item<double>(), -0.2 - 0.4 - 0.3 - 0.2, 1e-5);
  EXPECT_EQ(found.trained[1].item<double>(), 0.0);
}

struct Rule {
  const char* name;
  QuantizerConfig config;
  int bits;
};

// Levels of 2^b - 1 or 2^b; what has been quantized stays.
class AddedMethod : public ::testing::TestWithParam<Rule> {};

TEST_P(AddedMethod, HasTheLevelsOfItsCodesAndLeavesThemAlone) {
  const auto& [name, config, bits] = GetParam();
  torch::manual_seed(2);
  const at::Tensor x = at::randn({1, 4096});
  QuantizerConfig held = config;
  held.range = RangeSource::kCalibrated;
  const Quantizer quantizer("layer", "weight", held);
  const CalibratedRange range = quantizer.measure(x, BitWidth(bits));
  const at::Tensor once = quantizer.fake_quant(x, BitWidth(bits), &range);
  EXPECT_TRUE(at::allclose(quantizer.fake_quant(once, BitWidth(bits), &range), once, 1e-6, 1e-6));
  const std::set<float> distinct(once.data_ptr<float>(), once.data_ptr<float>() + once.numel());
  const bool odd = config.method == QuantizerKind::kLlmQat && config.symmetric && bits >= 3;
  EXPECT_LE(distinct.size(), static_cast<std::size_t>((1 << bits) - (odd ? 1 : 0)));
  if (bits < 8) {
    EXPECT_GE(distinct.size(), static_cast<std::size_t>((1 << bits) / 2));
  }
  const at::Tensor sorted = std::get<0>(at::sort(once.view(-1))), order = std::get<0>(at::sort(x.view(-1)));
  EXPECT_TRUE(at::equal(quantizer.fake_quant(order.unsqueeze(0), BitWidth(bits), &range).view(-1), sorted));
}

INSTANTIATE_TEST_SUITE_P(
    All, AddedMethod, ::testing::ValuesIn([] {
      std::vector<Rule> rules;
      for (const int bits : {2, 3, 4, 8}) {
        const auto add = [&](const char* name, QuantizerKind method, bool symmetric) {
          rules.push_back(
              {name,
               {.method = method, .symmetric = symmetric, .granularity = Granularity::kTensor, .group_size = 0},
               bits});
        };
        add("LlmQat", QuantizerKind::kLlmQat, true);
        add("LlmQatAffine", QuantizerKind::kLlmQat, false);
        add("Cpt", QuantizerKind::kCpt, true);
        add("Ema", QuantizerKind::kEma, true);
        add("Lsq", QuantizerKind::kLsq, true);
        add("Groupwise", QuantizerKind::kGroupwise, true);
      }
      return rules;
    }()),
    [](const auto& c) { return c.param.name + std::to_string(c.param.bits); });

// round() and clamp() whose gradients are those of doing nothing.
at::Tensor round_through(const at::Tensor& x) { return x + (x.round() - x).detach(); }
at::Tensor clamp_through(const at::Tensor& x, double lo, double hi) { return x + (x.clamp(lo, hi) - x).detach(); }

// What autograd makes of `formula`, beside what the rule makes of it.
void expect_gradients(const QuantizerConfig& config, int bits, const at::Tensor& x_in,
                      const std::vector<at::Tensor>& members_in, double step_scale, std::int64_t sharing,
                      const std::function<at::Tensor(const at::Tensor&, const std::vector<at::Tensor>&)>& formula) {
  const Quantizer quantizer("layer", "weight", config);
  const BitWidth width(bits);
  const auto leaves = [&] {
    std::vector<at::Tensor> all = {x_in.clone().requires_grad_(true)};
    for (const at::Tensor& one : members_in) all.push_back(one.clone().requires_grad_(true));
    return all;
  };
  std::vector<at::Tensor> by_hand = leaves(), by_rule = leaves();
  torch::manual_seed(8);
  const at::Tensor dy = at::randn(x_in.sizes());
  const at::Tensor wanted = formula(by_hand[0], {by_hand.begin() + 1, by_hand.end()});
  wanted.backward(dy);
  CalibratedRange range;
  const auto members = quantizer.method(width).trained_members(x_in.size(0), x_in.size(1));
  ASSERT_EQ(members.size(), members_in.size());
  for (std::size_t i = 0; i < members.size(); ++i) range.*members[i].member = members_in[i];
  EXPECT_TRUE(at::allclose(quantizer.fake_quant(x_in, width, &range), wanted.detach(), 1e-5, 1e-5));
  quantized_by_rule(by_rule[0], {by_rule.begin() + 1, by_rule.end()},
                    {.quantizer = &quantizer, .width = width, .range = range, .sharing = sharing})
      .backward(dy);
  EXPECT_TRUE(at::allclose(by_rule[0].grad(), by_hand[0].grad(), 1e-5, 1e-5));
  for (std::size_t i = 1; i < by_rule.size(); ++i)
    EXPECT_TRUE(at::allclose(by_rule[i].grad(), by_hand[i].grad() * step_scale, 1e-3, 1e-4))
        << i << by_rule[i].grad() << by_hand[i].grad();
}

TEST(AddedMethods, LsqsGradientIsThatOfItsFormula) {
  torch::manual_seed(4);
  const at::Tensor x = at::randn({6, 8});
  for (const int bits : {2, 3, 5}) {
    const double most = (1 << (bits - 1)) - 1;
    expect_gradients(
        {.method = QuantizerKind::kLsq, .granularity = Granularity::kTensor, .range = RangeSource::kLearned}, bits, x,
        {at::tensor({0.4F})}, 1.0 / std::sqrt(48.0 * most), 48,
        [&](const at::Tensor& v, const std::vector<at::Tensor>& s) {
          return round_through((v / s[0]).clamp(-most - 1, most)) * s[0];
        });
  }
}

TEST(AddedMethods, GroupwiseGradientsAreThoseOfItsFormula) {
  torch::manual_seed(5);
  const at::Tensor w = at::randn({5, 8});
  for (const int bits : {2, 3, 4}) {
    const double most = (1 << bits) - 1;
    // Scales too small for the data, so that some codes are clamped; zero points between whole numbers, one beyond.
    const at::Tensor scale = at::rand({5, 2}) * 0.4 + 0.1, zero = at::rand({5, 2}) * most;
    zero.select(0, 0).fill_(most + 3.25);
    expect_gradients({.method = QuantizerKind::kGroupwise,
                      .granularity = Granularity::kChannel,
                      .range = RangeSource::kLearned,
                      .group_size = 4},
                     bits, w, {scale, zero}, 1.0, 1, [&](const at::Tensor& v, const std::vector<at::Tensor>& range) {
                       const at::Tensor s = clamp_through(range[0], 1e-4, 1e4).view({-1, 1});
                       const at::Tensor z = clamp_through(round_through(range[1]), 0, most).view({-1, 1});
                       const at::Tensor k = (round_through(v.view({-1, 4}) / s) + z).clamp(0, most);
                       return ((k - z) * s).view(v.sizes());
                     });
  }
}

// The whole gradient passes where nothing is cut off, however large the values are.
TEST(AddedMethods, LlmQatsGradientStopsOnlyWhereTheForwardPassCutsOff) {
  const QuantizerConfig dynamic{.method = QuantizerKind::kLlmQat, .granularity = Granularity::kToken};
  EXPECT_FALSE(Quantizer("layer", "activation", dynamic).has_gradient_rule(BitWidth(4)));
  for (const bool symmetric : {true, false}) {
    const Quantizer held("layer", "activation",
                         {.method = QuantizerKind::kLlmQat,
                          .symmetric = symmetric,
                          .granularity = Granularity::kTensor,
                          .range = RangeSource::kCalibrated});
    ASSERT_TRUE(held.has_gradient_rule(BitWidth(8)));
    const CalibratedRange range{.lo = at::tensor({-4.0F}), .hi = at::tensor({5.0F}), .mean = {}};
    const at::Tensor x = row({-6.0F, -4.5F, -3.0F, 2.5F, 5.0F, 5.1F}).requires_grad_(true);
    quantized_by_rule(x, {}, {.quantizer = &held, .width = BitWidth(8), .range = range})
        .backward(at::full({1, 6}, 7.0F));
    EXPECT_TRUE(at::equal(x.grad(), row({0, symmetric ? 7.0F : 0.0F, 7, 7, 7, 0}))) << x.grad();
  }
}

TEST(AddedMethods, AdaptersOfLearnedWeightsAreMinMaxAndTheirWeightsSayWhereRangesComeFrom) {
  QuantConfig config;
  const BitWidth four(4);
  EXPECT_EQ(range_source(config.weight, four), RangeSource::kDynamic);
  config.weight.method = QuantizerKind::kEma;
  EXPECT_EQ(range_source(config.weight, four), RangeSource::kRunning);
  EXPECT_EQ(adapter_quantizer(config).method, QuantizerKind::kEma);
  EXPECT_FALSE(Quantizer("layer", "lora_a", adapter_quantizer(config), RangesOf::kData).needs_ranges(four));
  for (const QuantizerKind method : {QuantizerKind::kLsq, QuantizerKind::kGroupwise}) {
    config.weight.method = method;
    EXPECT_EQ(range_source(config.weight, four), RangeSource::kLearned);
    EXPECT_EQ(adapter_quantizer(config).method, QuantizerKind::kMinMax);
    EXPECT_EQ(adapter_quantizer(config).granularity, Granularity::kChannel);
  }
}

TEST(AddedMethods, WidthsOfOneQuantizerHaveRulesAndRangesOfTheirOwn) {
  QuantConfig config;
  config.weight.granularity = Granularity::kTensor;
  config.weight.by_width = {{4, QuantizerKind::kLsq}, {6, QuantizerKind::kEma}, {8, QuantizerKind::kLlmQat}};
  const Quantizer mixed("layer", "weight", config.weight);
  EXPECT_EQ(mixed.source(BitWidth(3)), RangeSource::kDynamic);
  EXPECT_EQ(mixed.source(BitWidth(4)), RangeSource::kLearned);
  EXPECT_EQ(mixed.source(BitWidth(6)), RangeSource::kRunning);
  EXPECT_EQ(mixed.source(BitWidth(8)), RangeSource::kDynamic);
  EXPECT_FALSE(mixed.trains_on_own_range(BitWidth(6)));
  EXPECT_TRUE(mixed.has_gradient_rule(BitWidth(4)));
  for (const int bits : {3, 6, 8}) EXPECT_FALSE(mixed.has_gradient_rule(BitWidth(bits))) << bits;
  EXPECT_TRUE(has_ranges_from(config.weight, RangeSource::kRunning));
  EXPECT_FALSE(has_ranges_from(config.weight, RangeSource::kCalibrated));
  EXPECT_EQ(mixed.method(BitWidth(4)).trained_members(2, 3).size(), 1U);
  EXPECT_TRUE(mixed.method(BitWidth(6)).trained_members(2, 3).empty());
  const QuantizerConfig adapter = adapter_quantizer(config);
  EXPECT_EQ(adapter.granularity, Granularity::kChannel);
  EXPECT_EQ(adapter.method_at(4), QuantizerKind::kMinMax);
  EXPECT_EQ(adapter.method_at(6), QuantizerKind::kEma);
}

}  // namespace
}  // namespace qat
