// One quantized layer with its adapter, against its formula written with the quantizers and their gradient shims.
#include "src/model/quant_linear.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "src/quant/straight_through.h"
#include "tests/support/calibrated_range.h"
#include "tests/support/linear_products.h"
#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using test::code_linear;
using test::float_linear;
using test::quantize_gradient_rows;
using test::TinyModel;

constexpr std::int64_t kLayer = 2;  // h.0.mlp.c_fc: 16 -> 64, so that a wrong layer's draws or codes show

struct Result {
  at::Tensor y, x, weight, bias, lora_a, lora_b;  // the last five: gradients
};

void expect_equal(const Result& got, const Result& want) {
  EXPECT_TRUE(at::allclose(got.y, want.y, 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(got.x, want.x, 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(got.weight, want.weight, 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(got.bias, want.bias, 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(got.lora_a, want.lora_a, 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(got.lora_b, want.lora_b, 1e-4, 1e-5));
}

class Layer {
 public:
  explicit Layer(const std::function<void(TinyModel&)>& set = {}) {
    if (set) set(tiny_);
    tiny_.build();
    tiny_.randomize();
    torch::manual_seed(3);
    x_ = at::randn({6, 16}).requires_grad_(true);
    g_ = at::randn({6, 64}) * 10.0;
  }
  QuantLinear& linear() { return tiny_.model->linears()[kLayer]; }
  TinyModel& tiny() { return tiny_; }
  const at::Tensor& x() const { return x_; }

  ForwardContext context(const PrecisionMap& map, bool stochastic = false) const {
    ForwardContext out = tiny_.context(map);
    out.stochastic_gradients = stochastic, out.step = 7, out.micro_batch = 3;
    return out;
  }
  Result got(const PrecisionMap& map, bool stochastic = false) {
    return gradients(linear().forward(x_, context(map, stochastic)));
  }
  // Products number 0 (base) and 1 (A), and what A (3) and B (4) receive, round with draws of their own. A rounds in
  // front of its product: whose rows its width's levels are is the only difference that codes make.
  Result by_hand(const PrecisionMap& map, bool stochastic = false) {
    const LayerPrecision& precision = map.at(kLayer);
    const auto rounding = [&](std::uint64_t product) {
      return GradientRounding{.width = precision.gradient,
                              .stochastic = stochastic,
                              .key = rng_key(11, RngPurpose::kGradientRounding, 7, 3, kLayer * 5 + product)};
    };
    const QuantConfig& quant = tiny_.quant;
    const auto q = [&](const at::Tensor& t, const QuantizerConfig& config, BitWidth width) {
      const double clip = config.method == QuantizerKind::kLog ? quant.log_grad_clip : 0.0;
      return straight_through(test::clamp_gradient(t, clip),
                              Quantizer("layer", "any", config).fake_quant(t.detach(), width));
    };
    const bool codes = choose_gemm_path(quant, precision, Device::kCpu) == GemmPath::kCodes;
    const auto encoded = [&](const at::Tensor& t, const QuantizerConfig& config, BitWidth width) {
      return Quantizer("layer", "any", config).encode(t.detach(), width, /*with_transposed=*/true);
    };
    const at::Tensor a = quantize_gradient_rows(parameter(linear().adapter(8)->a), rounding(3));
    const at::Tensor b = quantize_gradient_rows(parameter(linear().adapter(8)->b), rounding(4));
    const bool quantized = tiny_.lora.quantize, raw = tiny_.lora.input == AdapterInput::kRaw;
    const at::Tensor xq = q(x_, quant.activation, precision.activation);
    const at::Tensor& w = parameter(linear().spec().weight);
    const at::Tensor& bias = parameter(linear().spec().bias);
    at::Tensor y, h;
    if (codes) {
      const Coded coded = encoded(x_, quant.activation, precision.activation);
      y = code_linear(x_, w, bias, coded, encoded(w, quant.weight, precision.weight), rounding(0));
      h = quantized && !raw
              ? code_linear(x_, a, {}, coded, encoded(a, quant.weight, precision.weight), rounding(1))
              : float_linear(raw ? x_ : xq, quantized ? q(a, quant.weight, precision.weight) : a, {}, rounding(1));
    } else {
      y = float_linear(xq, q(w, quant.weight, precision.weight), bias, rounding(0));
      h = float_linear(raw ? x_ : xq, quantized ? q(a, quant.weight, precision.weight) : a, {}, rounding(1));
    }
    const double scaling = tiny_.lora.alpha / static_cast<double>(tiny_.lora.rank);
    return gradients(y + at::linear(h, (quantized ? q(b, quant.weight, precision.weight) : b) * scaling));
  }

 private:
  const at::Tensor& parameter(int id) const { return tiny_.model->parameters().tensor(id); }
  Result gradients(const at::Tensor& y) {
    const auto g = torch::autograd::grad({y},
                                         {x_, parameter(linear().spec().weight), parameter(linear().spec().bias),
                                          parameter(linear().adapter(8)->a), parameter(linear().adapter(8)->b)},
                                         {g_});
    return {y.detach(), g[0], g[1], g[2], g[3], g[4]};
  }

  TinyModel tiny_;
  at::Tensor x_, g_;
};

PrecisionMap widths(int bits, int gradient) { return PrecisionMap::uniform(8, bits, bits, gradient); }

struct Variant {
  const char* name;
  std::function<void(TinyModel&)> set;
};

const std::vector<Variant> kVariants = {
    {"codes and wide floats", [](TinyModel&) {}},
    {"float adapters", [](TinyModel& t) { t.lora.quantize = false; }},
    {"alpha", [](TinyModel& t) { t.lora.alpha = 20.0; }},
    {"raw input", [](TinyModel& t) { t.lora.input = AdapterInput::kRaw; }},
    {"raw input, float adapters", [](TinyModel& t) { t.lora.input = AdapterInput::kRaw, t.lora.quantize = false; }},
    {"raw input, log",
     [](TinyModel& t) {
       t.lora.input = AdapterInput::kRaw;
       t.quant.weight.method = t.quant.activation.method = QuantizerKind::kLog;
     }},
    {"affine activations", [](TinyModel& t) { t.quant.activation.symmetric = false; }},
    {"log", [](TinyModel& t) { t.quant.weight.method = t.quant.activation.method = QuantizerKind::kLog; }}};

TEST(QuantLinear, IsTheQuantizedProductPlusTheScaledAdapter) {
  for (const Variant& variant : kVariants) {
    for (const int bits : {3, 8, 12}) {
      if (bits > 8 && std::string(variant.name).ends_with("log")) continue;
      SCOPED_TRACE(variant.name + std::to_string(bits));
      Layer layer(variant.set);
      expect_equal(layer.got(widths(bits, 32)), layer.by_hand(widths(bits, 32)));
    }
  }
}

// Equal draws in two places would be correlated errors; other draws than these would change every resumed run.
TEST(QuantLinear, EachRoundedProductDrawsFromItsOwnStream) {
  for (const Variant& variant : kVariants) {
    for (const int gradient : {3, 8, 9}) {
      for (const bool stochastic : {true, false}) {
        SCOPED_TRACE(variant.name + std::to_string(gradient) + (stochastic ? " stochastic" : " nearest"));
        Layer layer(variant.set);
        expect_equal(layer.got(widths(6, gradient), stochastic), layer.by_hand(widths(6, gradient), stochastic));
      }
    }
  }
}

TEST(QuantLinear, LogQuantizersClampEveryGradientThatPassesThem) {
  Layer layer([](TinyModel& t) {
    t.quant.weight.method = t.quant.activation.method = QuantizerKind::kLog;
    t.quant.log_grad_clip = 0.01;
  });
  const Result got = layer.got(widths(4, 32));
  for (const at::Tensor& g : {got.x, got.weight, got.lora_a, got.lora_b})
    EXPECT_FLOAT_EQ(g.abs().max().item<float>(), 0.01F);
  EXPECT_GT(got.bias.abs().max().item<double>(), 0.01);
}

// What reaches x through a raw adapter passed no quantizer: nothing clamps it.
TEST(QuantLinear, LogQuantizersDoNotClampWhatARawAdapterAdds) {
  const auto gradients = [](bool raw) {
    Layer layer([&](TinyModel& t) {
      t.quant.weight.method = t.quant.activation.method = QuantizerKind::kLog;
      t.quant.log_grad_clip = 0.01;
      t.lora.input = raw ? AdapterInput::kRaw : AdapterInput::kQuantized;
      t.lora.quantize = false;
    });
    return layer.got(widths(4, 32));
  };
  EXPECT_FLOAT_EQ(gradients(false).x.abs().max().item<float>(), 0.01F);
  EXPECT_GT(gradients(true).x.abs().max().item<float>(), 1.0F);
}

TEST(QuantLinear, CalibrationShowsUnquantizedInputsToWhoeverObservesTheLayer) {
  for (const bool codes : {true, false}) {
    Layer layer([&](TinyModel& t) {
      t.quant.activation = {.symmetric = codes, .granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};
    });
    const at::NoGradGuard no_grad;
    const PrecisionMap map = widths(4, 32);
    ForwardContext context = layer.context(map);
    const Quantizer& quantizer = layer.linear().activation_quantizer();
    const std::int64_t index = layer.linear().spec().index;
    RangeObservers others, observers;
    others.try_emplace(index + 1, quantizer, BitWidth(4), layer.x().size(-1), at::kCPU);
    observers.try_emplace(index, quantizer, BitWidth(4), layer.x().size(-1), at::kCPU);
    context.observers = &others;
    const at::Tensor y = layer.linear().forward(layer.x(), context);
    const auto& store = layer.tiny().model->parameters();
    const at::Tensor w = Quantizer("layer", "weight", layer.tiny().quant.weight)
                             .fake_quant(store.tensor(layer.linear().spec().weight), BitWidth(4));
    EXPECT_TRUE(at::allclose(y, at::linear(layer.x(), w, store.tensor(layer.linear().spec().bias)), 1e-5, 1e-5));
    EXPECT_EQ(others.at(index + 1).values(), 0);
    context.observers = &observers;
    EXPECT_TRUE(at::equal(layer.linear().forward(layer.x(), context), y));
    EXPECT_EQ(observers.at(index).values(), layer.x().numel());
    EXPECT_EQ(observers.at(index).hi().item<float>(), layer.x().max().item<float>());
    EXPECT_TRUE(quantizer.ranges().empty());
  }
}

TEST(QuantLinear, APassWithRangesOfItsOwnComputesAsIfTheyWereInForce) {
  for (const bool codes : {true, false}) {
    for (const bool quantized_adapter : {true, false}) {
      Layer layer([&](TinyModel& t) {
        t.quant.activation = {
            .symmetric = codes, .granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};
        t.lora.quantize = quantized_adapter;
      });
      const at::NoGradGuard no_grad;
      const PrecisionMap map = widths(4, 32);
      Quantizer& quantizer = layer.linear().activation_quantizer();
      const CalibratedRange narrow = test::range_of(quantizer, BitWidth(4), {layer.x() * 0.5});
      const CalibratedRange wide = test::range_of(quantizer, BitWidth(4), {layer.x()});
      const RangeTable table = {{layer.linear().spec().index, narrow}};
      const auto y = [&](const RangeTable* ranges) {
        ForwardContext context = layer.context(map);
        context.ranges = ranges;
        return layer.linear().forward(layer.x(), context);
      };
      quantizer.put_in_force(test::both(4), narrow);
      const at::Tensor expected = y(nullptr);
      quantizer.put_in_force(test::both(4), wide);
      EXPECT_FALSE(at::equal(y(nullptr), expected));
      EXPECT_TRUE(at::equal(y(&table), expected));
      const RangeTable of_another_layer = {{layer.linear().spec().index + 1, narrow}};
      EXPECT_TRUE(at::equal(y(&of_another_layer), y(nullptr)));
    }
  }
}

TEST(QuantLinear, ACacheKeepsLayersAndWidthsApart) {
  TinyModel tiny;
  tiny.config.quantize_lm_head = true;
  tiny.build();
  tiny.randomize();
  WeightCache cache;
  for (const int bits : {8, 3, 8, 5, 32, 3}) {
    const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), bits, bits);
    ForwardContext context = tiny.context(map);
    const auto loss = [&] { return tiny.loss(context); };
    const double fresh = loss();
    const at::Tensor likelihoods = tiny.model->token_nll(tiny.tokens(2, 9), tiny.tokens(2, 9, 8), context);
    context.weight_cache = &cache;
    EXPECT_EQ(loss(), fresh) << bits;
    // Without transposed copies: other codes in the same cache.
    EXPECT_TRUE(at::equal(tiny.model->token_nll(tiny.tokens(2, 9), tiny.tokens(2, 9, 8), context), likelihoods))
        << bits;
  }
}

// Where nothing but weights is quantized, a layer is one matrix product with what `merged` gives.
TEST(QuantLinear, ItsValuesMergedAreWhatItMultipliesWith) {
  for (const bool quantize_adapters : {true, false}) {
    Layer layer([&](TinyModel& tiny) { tiny.lora.quantize = quantize_adapters; });
    const auto product = [&](const at::Tensor& weight) {
      return at::linear(layer.x(), weight, layer.linear().parameters({}).at(1)).detach();
    };
    for (const int bits : {3, 8, 32}) {
      const PrecisionMap map = PrecisionMap::uniform(8, bits, /*activation=*/32);
      const QuantLinear::Values values = layer.linear().values(map.at(kLayer));
      EXPECT_EQ(values.lora_a.defined(), bits != 32) << "an unquantized pass has no adapter";
      const at::Tensor expected = layer.linear().forward(layer.x(), layer.context(map)).detach();
      EXPECT_TRUE(at::allclose(product(QuantLinear::merged(values)), expected, 1e-5, 1e-5)) << bits;
      if (bits != 32) {
        EXPECT_FALSE(at::allclose(product(values.weight), expected, 1e-2, 1e-2)) << bits;
      }
      const bool raw = values.lora_a.defined() && at::equal(values.lora_a, layer.linear().parameters({}).at(2));
      EXPECT_EQ(raw, bits != 32 && !quantize_adapters) << bits;
    }
  }
}

}  // namespace
}  // namespace qat
