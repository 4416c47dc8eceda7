#include "src/quant/quantizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <set>

#include "src/quant/gemm_path.h"
#include "tests/support/calibrated_range.h"

namespace qat {
namespace {

using test::hold;
using ::testing::HasSubstr;

struct Case {
  std::string name;
  QuantizerConfig config;
  int bits;
};

class AnyQuantizer : public ::testing::TestWithParam<Case> {
 protected:
  at::Tensor input() const {
    torch::manual_seed(9);
    return at::randn({6, 40});
  }
  Quantizer quantizer() const { return {"h.0.mlp.c_fc", "weight", GetParam().config}; }
  BitWidth width() const { return BitWidth(GetParam().bits); }
};

TEST_P(AnyQuantizer, IsIdempotentWithItsRangeHeld) {
  QuantizerConfig held = GetParam().config;
  held.range = RangeSource::kCalibrated;
  Quantizer q("layer", "activation", held);
  const CalibratedRange range = test::range_of(q, width(), {input()});
  const at::Tensor once = q.fake_quant(input(), width(), &range);
  EXPECT_TRUE(at::equal(q.fake_quant(once, width(), &range), once));
}

TEST_P(AnyQuantizer, IsMonotone) {
  Quantizer q("layer", "weight",
              {.method = GetParam().config.method,
               .symmetric = GetParam().config.symmetric,
               .log_codebook = GetParam().config.log_codebook,
               .granularity = Granularity::kTensor});
  const at::Tensor sorted = std::get<0>(at::sort(input().reshape({1, -1})));
  const at::Tensor y = q.fake_quant(sorted, width());
  EXPECT_TRUE((y.diff() >= 0).all().item<bool>());
}

TEST_P(AnyQuantizer, KeepsTheLargestMagnitudeOfEachGroup) {
  // Powers of two, so that the extreme value has an exact logarithm too.
  const at::Tensor x = input().clamp(-1.9, 1.9);
  x.select(1, 0).fill_(2.0);
  x.select(1, 1).fill_(-2.0);
  const at::Tensor y = quantizer().fake_quant(x, width());
  if (GetParam().config.method == QuantizerKind::kLog && GetParam().bits == 2)
    return;  // one magnitude: the mean exponent
  const double tolerance = GetParam().config.symmetric ? 1e-5 : 0.51 * 4.0 / ((1 << GetParam().bits) - 1);
  EXPECT_NEAR(y.max().item<double>(), 2.0, tolerance);
  EXPECT_NEAR(y.min().item<double>(), -2.0, tolerance);
}

INSTANTIATE_TEST_SUITE_P(
    Methods, AnyQuantizer, ::testing::ValuesIn([] {
      std::vector<Case> cases;
      for (const int bits : {2, 3, 4, 5, 6, 7, 8, 12, 18}) {
        const std::string suffix = std::to_string(bits);
        cases.push_back({"SymmetricTensor" + suffix, {.granularity = Granularity::kTensor}, bits});
        cases.push_back({"SymmetricFeature" + suffix, {.granularity = Granularity::kFeature}, bits});
        cases.push_back({"AffineTensor" + suffix, {.symmetric = false, .granularity = Granularity::kTensor}, bits});
        if (bits <= 8) {
          cases.push_back({"LogPacked" + suffix,
                           {.method = QuantizerKind::kLog,
                            .log_codebook = LogCodebook::kPacked,
                            .granularity = Granularity::kTensor},
                           bits});
          cases.push_back(
              {"LogSeed" + suffix,
               {.method = QuantizerKind::kLog, .log_codebook = LogCodebook::kSeed, .granularity = Granularity::kTensor},
               bits});
        }
      }
      return cases;
    }()),
    [](const auto& c) { return c.param.name; });

TEST(Quantizer, CodesAndFakeQuantizationAreTheSameValuesBitForBit) {
  torch::manual_seed(4);
  const at::Tensor x = at::randn({5, 64});
  for (const Granularity granularity : {Granularity::kToken, Granularity::kTensor}) {
    const Quantizer q("layer", "activation", {.granularity = granularity});
    for (int bits = 2; bits <= 8; ++bits) {
      const Coded coded = q.encode(x, BitWidth(bits), /*with_transposed=*/true);
      EXPECT_TRUE(at::equal(coded.codes.to(at::kFloat) * coded.scales.unsqueeze(1), q.fake_quant(x, BitWidth(bits))));
      EXPECT_TRUE(at::equal(coded.codes_transposed, coded.codes.t().contiguous()));
    }
  }
}

// docs/numerics.md, "Checks".
TEST(Quantizer, GivesTheExamplesOfThePage) {
  const QuantizerConfig symmetric{.granularity = Granularity::kChannel};
  const QuantizerConfig affine{.symmetric = false, .granularity = Granularity::kChannel};
  const QuantizerConfig packed{.method = QuantizerKind::kLog, .granularity = Granularity::kChannel};
  const QuantizerConfig seed{
      .method = QuantizerKind::kLog, .log_codebook = LogCodebook::kSeed, .granularity = Granularity::kChannel};
  struct Example {
    QuantizerConfig config;
    int bits;
    std::vector<float> values;
  };
  const at::Tensor x = at::tensor({-1.0F, 0.0F, 0.3F, 0.5F, 1.6F}).unsqueeze(0);
  for (const Example& one : std::vector<Example>{{symmetric, 2, {-1.6F, 0, 0, 0, 1.6F}},
                                                 {symmetric, 3, {-1.066667F, 0, 0.533333F, 0.533333F, 1.6F}},
                                                 {affine, 2, {-0.866667F, 0, 0, 0.866667F, 1.733333F}},
                                                 {affine, 3, {-1.114286F, 0, 0.371429F, 0.371429F, 1.485714F}},
                                                 {packed, 2, {-0.699927F, 0, 0.699927F, 0.699927F, 0.699927F}},
                                                 {packed, 3, {-0.692820F, 0, 0.3F, 0.692820F, 1.6F}},
                                                 {seed, 2, {-1.6F, 0, 1.6F, 1.6F, 1.6F}},
                                                 {seed, 3, {-1.6F, 0, 0.217154F, 0.217154F, 1.6F}}}) {
    const at::Tensor y = Quantizer("layer", "weight", one.config).fake_quant(x, BitWidth(one.bits));
    EXPECT_TRUE(at::allclose(y, at::tensor(one.values).unsqueeze(0), /*rtol=*/0, /*atol=*/1e-6)) << one.bits << y;
  }
}

TEST(Quantizer, ThirtyTwoBitsAreABypass) {
  const at::Tensor x = at::randn({2, 3});
  EXPECT_TRUE(
      at::equal(Quantizer("layer", "weight", {.granularity = Granularity::kChannel}).fake_quant(x, BitWidth(32)), x));
}

TEST(Quantizer, UncalibratedUseNamesLayerRoleAndWidths) {
  Quantizer q("h.3.mlp.c_fc", "activation", {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated});
  hold(q, BitWidth(8), {at::randn({4, 4})});
  EXPECT_NO_THROW((void)q.required({.weight = 8, .activation = 8}));
  try {
    (void)q.required({.weight = 6, .activation = 4});
    FAIL() << "an uncalibrated width was used";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("h.3.mlp.c_fc"));
    EXPECT_THAT(error.what(), HasSubstr("activation"));
    EXPECT_THAT(error.what(), HasSubstr("4 bits with weights of 6 bits"));
    EXPECT_THAT(error.what(), HasSubstr("calibrated: W8 A8"));
  }
  EXPECT_THROW((void)q.encode(at::randn({4, 4}), BitWidth(8), false), Error);  // without a range
}

// What a layer sees at 4-bit weights is not what it sees at 8.
TEST(Quantizer, RangesBelongToTheWidthsOfWeightsAndActivations) {
  Quantizer q("layer", "activation", {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated});
  const auto range = [](float lo) {
    return CalibratedRange{.lo = at::full({1}, lo), .hi = at::full({1}, 9.0F), .mean = {}};
  };
  const auto lo = [&](int weight, int activation) {
    const CalibratedRange* found = q.in_force({.weight = weight, .activation = activation});
    return found == nullptr ? 0.0F : found->lo.item<float>();
  };
  q.put_in_force({.weight = 4, .activation = 8}, range(-4.0F));
  q.put_in_force({.weight = 8, .activation = 8}, range(-8.0F));
  EXPECT_EQ(lo(4, 8), -4.0F);
  EXPECT_EQ(lo(8, 8), -8.0F);
  EXPECT_EQ(lo(6, 8), 0.0F);
  EXPECT_EQ(lo(8, 4), 0.0F);
  q.put_in_force({.weight = RangeWidths::kAnyWeights, .activation = 8}, range(-1.0F));
  EXPECT_EQ(lo(6, 8), -1.0F);
  EXPECT_EQ(lo(4, 8), -4.0F);
  EXPECT_EQ(lo(6, 4), 0.0F);
}

// Values beyond what calibration saw saturate; values of the data at hand never do.
TEST(Quantizer, ACalibratedRangeHoldsForOtherData) {
  for (const QuantizerKind method : {QuantizerKind::kMinMax, QuantizerKind::kLog}) {
    for (const bool symmetric : {true, false}) {
      SCOPED_TRACE(enum_name(method) + std::string(symmetric ? " symmetric" : ""));
      const BitWidth width(8);
      const QuantizerConfig dynamic{.method = method, .symmetric = symmetric, .granularity = Granularity::kTensor};
      QuantizerConfig held = dynamic;
      held.range = RangeSource::kCalibrated;
      Quantizer q("layer", "activation", held);
      const CalibratedRange range = test::range_of(q, width, {at::tensor({-2.0F, 0.5F, 2.0F})});
      const at::Tensor x = at::tensor({1.0F, 64.0F}).unsqueeze(0);
      EXPECT_NEAR(q.fake_quant(x, width, &range).max().item<double>(), 2.0, 0.02);
      EXPECT_NEAR(Quantizer("layer", "activation", dynamic).fake_quant(x, width).max().item<double>(), 64.0, 0.5);
      if (!symmetric || method == QuantizerKind::kLog) continue;
      const Coded coded = q.encode(x, width, false, &range);
      EXPECT_NEAR((coded.codes.to(at::kFloat) * coded.scales).max().item<double>(), 2.0, 1e-5);
      const WideCoded wide = q.encode_wide(x, width, &range);
      EXPECT_NEAR((wide.codes.to(at::kFloat) * wide.scales).max().item<double>(), 2.0, 1e-5);
    }
  }
}

// Of 2-bit packed log codes, whose only magnitude is 2 to the mean exponent.
TEST(Quantizer, TheOneMagnitudeIsTheMeanOverBatches) {
  Quantizer q("layer", "activation",
              {.method = QuantizerKind::kLog, .granularity = Granularity::kTensor, .range = RangeSource::kCalibrated});
  // exponents 1, 2, 5
  const CalibratedRange range =
      test::range_of(q, BitWidth(2), {at::full({1, 6}, 2.0F), at::full({1, 6}, 4.0F), at::full({1, 6}, 32.0F)});
  const at::Tensor y = q.fake_quant(at::tensor({-1.0F, 0.0F, 64.0F}).unsqueeze(0), BitWidth(2), &range);
  const double magnitude = std::exp2(8.0 / 3.0);
  EXPECT_TRUE(at::allclose(y, at::tensor({-magnitude, 0.0, magnitude}).to(at::kFloat).unsqueeze(0), 1e-4));
}

TEST(Quantizer, LogCodebooksHaveTheirNumbersOfMagnitudes) {
  const at::Tensor x = at::exp2(at::linspace(-4.0, 4.0, 1000)).unsqueeze(0);
  for (const LogCodebook codebook : {LogCodebook::kPacked, LogCodebook::kSeed}) {
    const Quantizer q("layer", "weight",
                      {.method = QuantizerKind::kLog, .log_codebook = codebook, .granularity = Granularity::kTensor});
    const at::Tensor y = q.fake_quant(x, BitWidth(3));
    const std::set<float> distinct(y.data_ptr<float>(), y.data_ptr<float>() + y.numel());
    EXPECT_EQ(distinct.size(), codebook == LogCodebook::kPacked ? 3U : 7U);
  }
  const Quantizer packed("layer", "weight", {.method = QuantizerKind::kLog, .granularity = Granularity::kTensor});
  const at::Tensor y = packed.fake_quant(at::tensor({0.0F, 0.0625F, 16.0F}).unsqueeze(0), BitWidth(3));
  EXPECT_TRUE(at::allclose(y, at::tensor({0.0F, 0.0625F, 16.0F}).unsqueeze(0), 1e-5));  // a zero widens no range
}

TEST(Quantizer, RangesOfZerosAndSubnormalsGiveFinitePositiveScales) {
  for (const float value : {0.0F, 1e-42F, 7.0F}) {
    const Quantizer q("layer", "activation", {.granularity = Granularity::kToken});
    const Coded coded = q.encode(at::full({2, 3}, value), BitWidth(4), false);
    EXPECT_TRUE((coded.scales > 0).all().item<bool>());
    EXPECT_TRUE(at::isfinite(coded.scales).all().item<bool>());
  }
}

TEST(GemmPath, CodesNeedScalesThatFactorOut) {
  const QuantConfig config;
  const auto path = [](const QuantConfig& c, int weight, int activation, Device device = Device::kCpu) {
    return choose_gemm_path(c, {BitWidth(weight), BitWidth(activation), BitWidth(8)}, device);
  };
  EXPECT_EQ(path(config, 8, 8), GemmPath::kCodes);
  EXPECT_EQ(path(config, 2, 5), GemmPath::kCodes);
  EXPECT_EQ(path(config, 32, 32), GemmPath::kPlain);
  EXPECT_EQ(path(config, 9, 9), GemmPath::kFakeQuant);
  EXPECT_EQ(path(config, 8, 32), GemmPath::kFakeQuant);
  EXPECT_EQ(path(config, 8, 8, Device::kCuda), GemmPath::kCodes);
  EXPECT_EQ(path(config, 9, 8, Device::kCuda), GemmPath::kWideCodes);
  EXPECT_EQ(path(config, 11, 11, Device::kCuda), GemmPath::kWideCodes);
  EXPECT_EQ(path(config, 11, 12, Device::kCuda), GemmPath::kFakeQuant);
  QuantConfig feature = config;
  feature.activation.granularity = Granularity::kFeature;
  EXPECT_EQ(path(feature, 8, 8), GemmPath::kFakeQuant);
  QuantConfig log = config;
  log.weight.method = QuantizerKind::kLog;
  EXPECT_EQ(path(log, 4, 4), GemmPath::kFakeQuant);
  QuantConfig affine = config;
  affine.activation.symmetric = false;
  EXPECT_EQ(path(affine, 4, 4), GemmPath::kFakeQuant);
  QuantConfig mixed = config;  // each side by its own width
  mixed.weight.by_width = {{5, QuantizerKind::kLog}};
  mixed.activation.by_width = {{6, QuantizerKind::kLog}};
  EXPECT_EQ(path(mixed, 4, 4), GemmPath::kCodes);
  EXPECT_EQ(path(mixed, 6, 5), GemmPath::kCodes);
  EXPECT_EQ(path(mixed, 5, 4), GemmPath::kFakeQuant);
  EXPECT_EQ(path(mixed, 4, 6), GemmPath::kFakeQuant);
}

TEST(Quantizer, AWidthMayHaveAMethodOfItsOwn) {
  for (const Granularity granularity : {Granularity::kTensor, Granularity::kChannel}) {
    const QuantizerConfig minmax{.granularity = granularity};
    QuantizerConfig log = minmax, mixed = minmax;
    log.method = QuantizerKind::kLog;
    mixed.by_width = {{2, QuantizerKind::kLog}, {8, QuantizerKind::kLog}};
    const Quantizer q("layer", "any", mixed), as_minmax("layer", "any", minmax), as_log("layer", "any", log);
    torch::manual_seed(4);
    const at::Tensor x = at::randn({6, 40});
    for (const int bits : {2, 3, 4, 8}) {
      const BitWidth width(bits);
      const Quantizer& same = bits == 2 || bits == 8 ? as_log : as_minmax;
      EXPECT_TRUE(at::equal(q.fake_quant(x, width), same.fake_quant(x, width))) << bits;
      EXPECT_EQ(q.method(width).factors_out(), bits == 3 || bits == 4) << bits;
      EXPECT_EQ(q.wants_mean(width), bits == 2) << bits;
      const CalibratedRange range = q.measure(x * 0.5, width), theirs = same.measure(x * 0.5, width);
      EXPECT_TRUE(at::equal(range.lo, theirs.lo) && at::equal(range.hi, theirs.hi)) << bits;
      if (granularity == Granularity::kTensor) {
        EXPECT_EQ(q.count_beyond(x, width, range).item<std::int64_t>(),
                  same.count_beyond(x, width, range).item<std::int64_t>());
      }
    }
    EXPECT_TRUE(at::equal(q.encode(x, BitWidth(4), false).codes, as_minmax.encode(x, BitWidth(4), false).codes));
    EXPECT_THROW((void)q.encode(x, BitWidth(8), false), Error);
  }
}

TEST(PrecisionMap, OverridesReplaceTheScheduledWidthsOfMatchingLayers) {
  const std::vector<std::string> names = {"h.0.attn.c_attn", "h.0.mlp.c_fc", "h.1.attn.c_attn"};
  const LayerPrecision base{BitWidth(4), BitWidth(4), BitWidth(8)};
  const auto map = PrecisionMap::make(names, base,
                                      {{.layers = "h.*.attn.c_attn", .weight_bits = 8},
                                       {.layers = "h.1.*", .activation_bits = 6, .gradient_bits = 32}});
  EXPECT_EQ(map.at(0), (LayerPrecision{BitWidth(8), BitWidth(4), BitWidth(8)}));
  EXPECT_EQ(map.at(1), base);
  EXPECT_EQ(map.at(2), (LayerPrecision{BitWidth(8), BitWidth(6), BitWidth(32)}));
  const auto last =
      PrecisionMap::make(names, base, {{.layers = "*", .weight_bits = 8}, {.layers = "h.1.*", .weight_bits = 6}});
  EXPECT_EQ(last.at(1).weight, BitWidth(8));
  EXPECT_EQ(last.at(2).weight, BitWidth(6));  // later rules win
  EXPECT_EQ(PrecisionMap::uniform(2, 4, 6, 8).at(1), (LayerPrecision{BitWidth(4), BitWidth(6), BitWidth(8)}));
  // The unquantized reference stays unquantized.
  const auto full = PrecisionMap::make(names, LayerPrecision{}, {{.layers = "*", .weight_bits = 8}});
  EXPECT_TRUE(full.at(0).is_full());
}

}  // namespace
}  // namespace qat
