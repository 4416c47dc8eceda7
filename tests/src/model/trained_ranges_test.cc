// Layers whose quantizers train their ranges, against their formulas in autograd.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <set>

#include "src/quant/straight_through.h"
#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;

constexpr std::int64_t kLayer = 2;  // h.0.mlp.c_fc: 16 -> 64

at::Tensor round_through(const at::Tensor& x) { return x + (x.round() - x).detach(); }

at::Tensor lsq(const at::Tensor& v, const at::Tensor& step, int bits, double sharing) {
  const double most = (1 << (bits - 1)) - 1, scale = 1.0 / std::sqrt(sharing * most);
  const at::Tensor s = step * scale + (step * (1.0 - scale)).detach();  // the step, whose gradient is scaled
  return round_through((v / s).clamp(-most - 1, most)) * s;
}

at::Tensor groupwise(const at::Tensor& v, const at::Tensor& scale, const at::Tensor& zero, int bits) {
  const double most = (1 << bits) - 1;
  const at::Tensor whole = round_through(zero), bounded = whole + (whole.clamp(0, most) - whole).detach();
  const at::Tensor s = scale.view({-1, 1}), z = bounded.view({-1, 1});
  return (((round_through(v.reshape({s.size(0), -1}) / s) + z).clamp(0, most) - z) * s).view(v.sizes());
}

at::Tensor rows(const at::Tensor& v, int bits) {
  return straight_through(
      v, Quantizer("layer", "any", {.granularity = Granularity::kChannel}).fake_quant(v.detach(), BitWidth(bits)));
}

TinyModel trained_model(QuantizerKind weight, QuantizerKind activation) {
  TinyModel tiny;
  tiny.quant.weight.method = weight;
  if (weight == QuantizerKind::kLsq) tiny.quant.weight.granularity = Granularity::kTensor;
  tiny.quant.weight.group_size = 4;
  tiny.quant.activation.method = activation;
  if (activation == QuantizerKind::kLsq)
    tiny.quant.activation = {.method = activation, .granularity = Granularity::kTensor, .range = RangeSource::kLearned};
  return tiny;
}

// As the first step at this width would: steps that clip some of what the tests' inputs hold.
void begin(Gpt2& model, const PrecisionMap& map) {
  for (QuantLinear& linear : model.linears()) {
    const LayerPrecision& precision = map.at(linear.spec().index);
    if (linear.weight_lacks_range(precision)) linear.begin_weight(precision, 0);
    if (linear.activation_quantizer().source(BitWidth(4)) == RangeSource::kLearned)
      linear.begin_activation(precision, {.lo = at::zeros({1}), .hi = at::ones({1}), .mean = at::full({1}, 0.3F)});
  }
}

std::vector<at::Tensor> gradients_of(const at::Tensor& y, const at::Tensor& dy, const std::vector<at::Tensor>& of) {
  return torch::autograd::grad({y}, of, {dy});
}

class TrainedRanges : public ::testing::TestWithParam<QuantizerKind> {};

TEST_P(TrainedRanges, GradientsAreThoseOfTheFormula) {
  for (const bool activations : {false, true}) {
    for (const auto& [frozen, raw] : {std::pair{false, false}, {true, false}, {false, true}}) {
      TinyModel tiny = trained_model(GetParam(), activations ? QuantizerKind::kLsq : QuantizerKind::kMinMax);
      tiny.config.freeze_base = frozen;
      if (raw) tiny.lora.input = AdapterInput::kRaw;
      tiny.build();
      tiny.randomize();
      const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 3, 3);
      begin(*tiny.model, map);
      const auto context = tiny.context(map);
      const QuantLinear& linear = tiny.model->linears()[kLayer];
      torch::manual_seed(6);
      const at::Tensor x = at::randn({6, 16}).requires_grad_(true), dy = at::randn({6, 64});
      const auto parameter = [&](const std::string& name) {
        return tiny.model->parameters().tensor(tiny.id_of("transformer.h.0.mlp.c_fc." + name));
      };
      const at::Tensor w = parameter("weight"), a = parameter("lora_A.weight"), b = parameter("lora_B.weight");
      std::vector<at::Tensor> wanted = {x, a, b};
      if (!frozen) wanted.push_back(w);
      at::Tensor wq, xq;
      if (GetParam() == QuantizerKind::kLsq) {
        wanted.push_back(parameter("weight_step.w3"));
        wq = lsq(w, wanted.back(), 3, 16.0 * 64.0);
      } else {
        wanted.insert(wanted.end(), {parameter("weight_scale.w3"), parameter("weight_zero.w3")});
        wq = groupwise(w, parameter("weight_scale.w3"), parameter("weight_zero.w3"), 3);
      }
      xq = activations ? lsq(x, parameter("activation_step.w3"), 3, 16.0) : rows(x, 3);
      if (activations) wanted.push_back(parameter("activation_step.w3"));
      const at::Tensor by_hand =
          at::linear(xq, wq, parameter("bias")) + 2.0 * at::mm(at::mm(raw ? x : xq, rows(a, 3).t()), rows(b, 3).t());
      const at::Tensor got = linear.forward(x, context);
      EXPECT_TRUE(at::allclose(got, by_hand, 1e-4, 1e-4));
      const auto found = gradients_of(got, dy, wanted), expected = gradients_of(by_hand, dy, wanted);
      for (std::size_t i = 0; i < wanted.size(); ++i)
        EXPECT_TRUE(at::allclose(found[i], expected[i], 1e-3, 1e-4))
            << i << " frozen " << frozen << " raw " << raw << found[i] << expected[i];
    }
  }
}

TEST_P(TrainedRanges, BlocksComputedAgainGiveTheSameGradients) {
  std::vector<std::vector<at::Tensor>> found;
  for (const Recompute recompute : {Recompute::kNone, Recompute::kBlock}) {
    TinyModel tiny = trained_model(GetParam(), QuantizerKind::kLsq);
    tiny.model = std::make_unique<Gpt2>(tiny.config, tiny.lora, tiny.quant, 8, ComputeMode{}, recompute);
    tiny.randomize();
    const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 4, 4, 8);
    begin(*tiny.model, map);
    found.push_back(tiny.pass(tiny.context(map)).gradients.parameters);
    const auto step = tiny.model->parameters().info(tiny.id_of("transformer.h.1.attn.c_proj.activation_step.w4"));
    EXPECT_NE(found.back()[static_cast<std::size_t>(step.trainable_index)].item<double>(), 0.0);
    const auto other = tiny.model->parameters().info(tiny.id_of("transformer.h.1.attn.c_proj.activation_step.w8"));
    EXPECT_FALSE(found.back()[static_cast<std::size_t>(other.trainable_index)].defined());
  }
  for (std::size_t i = 0; i < found[0].size(); ++i) {
    ASSERT_EQ(found[0][i].defined(), found[1][i].defined()) << i;
    if (found[0][i].defined()) {
      EXPECT_TRUE(at::equal(found[0][i], found[1][i])) << i;
    }
  }
}

TEST_P(TrainedRanges, BelongToTheirWidthAndDoNotDecay) {
  TinyModel tiny = trained_model(GetParam(), QuantizerKind::kLsq);
  tiny.config.quantize_lm_head = true;
  tiny.quant.widths = {3, 8, 32};
  tiny.quant.activation_bits = 8;
  tiny.quant.overrides = {{.layers = "h.0.mlp.c_fc", .weight_bits = 8, .activation_bits = 6}};
  tiny.build();
  const std::string member = GetParam() == QuantizerKind::kLsq ? "weight_step." : "weight_scale.";
  for (const std::string& name : {"lm_head." + member + "w3", "transformer.h.1.mlp.c_fc." + member + "w8",
                                  std::string("transformer.h.1.mlp.c_fc.activation_step.w3a8"),
                                  std::string("transformer.h.1.mlp.c_fc.activation_step.w8"),
                                  std::string("transformer.h.0.mlp.c_fc.activation_step.w8a6")}) {
    const ParameterInfo& info = tiny.model->parameters().info(tiny.id_of(name));
    EXPECT_EQ(info.group, GroupKey(GroupKind::kWidth, name.find(".w3") != std::string::npos ? 3 : 8)) << name;
    EXPECT_FALSE(info.decay);
    EXPECT_TRUE(info.trainable);
  }
  for (const ParameterInfo& info : tiny.model->parameters().infos())
    EXPECT_EQ(info.name.find("h.0.mlp.c_fc." + member + "w3"), std::string::npos);  // the override's width alone
}

TEST(TrainedRange, MapsHaveThoseOfTheirWidthsAndOfTheirInputs) {
  TinyModel tiny = trained_model(QuantizerKind::kMinMax, QuantizerKind::kLsq);
  tiny.quant.widths = {8, 32};
  tiny.quant.weight = {.granularity = Granularity::kTensor, .by_width = {{3, QuantizerKind::kLsq}}};
  tiny.quant.maps = {"stripe8&3", "attn=6,mlp=3,act=8"};
  tiny.build();
  std::set<std::string> found;
  const std::string layer = "transformer.h.0.mlp.c_fc.";
  for (const ParameterInfo& info : tiny.model->parameters().infos())
    if (is_trained_range(info.name) && info.name.starts_with(layer)) found.insert(info.name.substr(layer.size()));
  EXPECT_EQ(found, (std::set<std::string>{"weight_step.w3", "activation_step.w8", "activation_step.w3",
                                          "activation_step.w3a8", "activation_step.w6a8"}));
}

INSTANTIATE_TEST_SUITE_P(Methods, TrainedRanges, ::testing::Values(QuantizerKind::kLsq, QuantizerKind::kGroupwise),
                         [](const auto& c) { return c.param == QuantizerKind::kLsq ? "Lsq" : "Groupwise"; });

TEST(TrainedRange, AWidthThatTrainingHasNotReachedHasNoStepForInputsAndTheWeightsOwnForWeights) {
  TinyModel tiny = trained_model(QuantizerKind::kLsq, QuantizerKind::kLsq);
  tiny.build();
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 4, 4);
  const QuantLinear& linear = tiny.model->linears()[kLayer];
  EXPECT_THROW((void)linear.forward(at::randn({2, 16}), tiny.context(map)), Error);
  const at::Tensor before = linear.values(map.at(kLayer)).weight;
  begin(*tiny.model, map);
  EXPECT_TRUE(at::equal(linear.values(map.at(kLayer)).weight, before));
}

}  // namespace
}  // namespace qat
