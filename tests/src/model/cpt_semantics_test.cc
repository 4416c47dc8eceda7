// What the quantized model promises about widths, adapters and frozen parts.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <set>

#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;

at::Tensor logits(const TinyModel& tiny, const at::Tensor& tokens, int weight, int activation) {
  const at::NoGradGuard no_grad;
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), weight, activation);
  const auto context = tiny.context(map);
  return tiny.model->logits(tiny.model->hidden(tokens, context), context);
}

void backward(const TinyModel& tiny, int weight, int gradient) {
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), weight, weight, gradient);
  tiny.backward(tiny.context(map));
}

TEST(CptModel, WidthsBelow32SeeTheAdapterAndWidth32DoesNot) {
  TinyModel tiny;
  tiny.build();
  tiny.randomize();
  const at::Tensor tokens = tiny.tokens(2, 9);
  const at::Tensor full = logits(tiny, tokens, 32, 32), eight = logits(tiny, tokens, 8, 8);
  {
    const at::NoGradGuard no_grad;
    tiny.model->parameters().tensor(tiny.model->linears()[0].adapter(8)->b).mul_(2.0);
  }
  EXPECT_TRUE(at::equal(logits(tiny, tokens, 32, 32), full));
  EXPECT_FALSE(at::equal(logits(tiny, tokens, 8, 8), eight));
}

TEST(CptModel, GoingToAnotherWidthAndBackChangesNothing) {
  TinyModel tiny;
  tiny.build();
  tiny.randomize();
  const at::Tensor tokens = tiny.tokens(2, 9);
  const at::Tensor before = logits(tiny, tokens, 4, 4);
  (void)logits(tiny, tokens, 32, 32);
  (void)logits(tiny, tokens, 2, 2);
  EXPECT_TRUE(at::equal(logits(tiny, tokens, 4, 4), before));
}

TEST(CptModel, MoreBitsComeCloserToTheUnquantizedModel) {
  TinyModel tiny;
  tiny.lora.rank = 0;
  tiny.build();
  tiny.randomize();
  const at::Tensor tokens = tiny.tokens(4, 12), full = logits(tiny, tokens, 32, 32);
  double last = INFINITY;
  for (const int bits : {2, 4, 6, 8, 12, 16}) {
    const double error = ((logits(tiny, tokens, bits, bits) - full).norm() / full.norm()).item<double>();
    EXPECT_LT(error, last) << bits;
    last = error;
  }
  EXPECT_LT(last, 1e-3);
}

TEST(CptModel, AUnquantizedStepProducesNoAdapterGradient) {
  TinyModel tiny;
  tiny.build();
  backward(tiny, 32, 32);
  for (const QuantLinear& linear : tiny.model->linears()) {
    EXPECT_FALSE(tiny.model->parameters().tensor(linear.adapter(8)->a).grad().defined());
    EXPECT_FALSE(tiny.model->parameters().tensor(linear.adapter(8)->b).grad().defined());
  }
  EXPECT_TRUE(tiny.grad("transformer.wte.weight").defined());
}

TEST(CptModel, AFrozenBaseTrainsAdaptersAndNormsOnly) {
  TinyModel tiny;
  tiny.config.freeze_base = true;
  tiny.build();
  tiny.randomize();
  backward(tiny, 4, 8);
  for (int id = 0; id < tiny.model->parameters().count(); ++id) {
    const ParameterInfo& info = tiny.model->parameters().info(id);
    const bool adapter_or_norm =
        info.name.find(".lora_") != std::string::npos || info.name.find(".ln_") != std::string::npos;
    EXPECT_EQ(info.trainable, adapter_or_norm) << info.name;
    EXPECT_EQ(tiny.model->parameters().tensor(id).grad().defined(), adapter_or_norm) << info.name;
  }
}

// Gradient quantization that is silently off was a defect of the system this one follows.
TEST(CptModel, AdapterGradientsTakeOnlyTheLevelsOfTheirWidth) {
  TinyModel tiny;
  tiny.build();
  tiny.randomize();
  backward(tiny, 4, 3);
  for (const QuantLinear& linear : tiny.model->linears()) {
    for (const int id : {linear.adapter(8)->a, linear.adapter(8)->b}) {
      const at::Tensor grad = tiny.model->parameters().tensor(id).grad();
      for (std::int64_t row = 0; row < grad.size(0); ++row) {
        const at::Tensor values = grad[row].contiguous();
        const std::set<float> distinct(values.data_ptr<float>(), values.data_ptr<float>() + values.numel());
        EXPECT_LE(distinct.size(), 7U) << linear.spec().name;
      }
    }
  }
}

TEST(CptModel, QuantizedGradientsPointWhereUnquantizedOnesDo) {
  TinyModel tiny;
  tiny.build();
  tiny.randomize();
  backward(tiny, 8, 32);
  std::vector<at::Tensor> exact;
  for (int id = 0; id < tiny.model->parameters().count(); ++id) {
    exact.push_back(tiny.model->parameters().tensor(id).grad().clone());
    tiny.model->parameters().tensor(id).mutable_grad().reset();
  }
  backward(tiny, 8, 8);
  for (int id = 0; id < tiny.model->parameters().count(); ++id) {
    const at::Tensor rounded = tiny.model->parameters().tensor(id).grad();
    // Biases sum the incoming gradient as it is, and the last norm lies above every quantized layer.
    if (rounded.dim() == 2) {
      EXPECT_FALSE(at::equal(rounded, exact[id])) << tiny.model->parameters().info(id).name;
    }
    const double cosine = (at::cosine_similarity(rounded.flatten(), exact[id].flatten(), 0)).item<double>();
    EXPECT_GT(cosine, 0.97) << tiny.model->parameters().info(id).name;
  }
}

// The adapter at 8 bits is close to the adapter in floats only if B (small) does not share A's (large) scale.
TEST(CptModel, AdapterFactorsHaveScalesOfTheirOwn) {
  TinyModel tiny;
  tiny.build();
  tiny.randomize();
  {
    const at::NoGradGuard no_grad;
    for (const QuantLinear& linear : tiny.model->linears())
      tiny.model->parameters().tensor(linear.adapter(8)->b).mul_(1e-3);
  }
  const at::Tensor tokens = tiny.tokens(2, 9);
  const at::Tensor with = logits(tiny, tokens, 8, 8);
  TinyModel without = TinyModel{.lora = {.rank = 0}};
  without.build();
  {
    const at::NoGradGuard no_grad;
    for (int id = 0; id < without.model->parameters().count(); ++id)
      without.model->parameters().tensor(id).copy_(
          tiny.model->parameters().tensor(tiny.id_of(without.model->parameters().info(id).name)));
  }
  EXPECT_FALSE(at::equal(with, logits(without, tokens, 8, 8)));  // B has not been rounded to zero
}

TEST(CptModel, EveryGemmPathTrains) {
  struct Variant {
    const char* name;
    std::function<void(TinyModel&)> set;
  };
  const std::vector<Variant> variants = {
      {"log packed", [](TinyModel& t) { t.quant.weight.method = t.quant.activation.method = QuantizerKind::kLog; }},
      {"log seed",
       [](TinyModel& t) {
         t.quant.weight.method = QuantizerKind::kLog, t.quant.weight.log_codebook = LogCodebook::kSeed;
       }},
      {"affine activations", [](TinyModel& t) { t.quant.activation.symmetric = false; }},
      {"float adapters", [](TinyModel& t) { t.lora.quantize = false; }},
      {"no adapters", [](TinyModel& t) { t.lora.rank = 0; }},
      {"whole-tensor scales",
       [](TinyModel& t) { t.quant.weight.granularity = t.quant.activation.granularity = Granularity::kTensor; }},
      {"quantized tied head", [](TinyModel& t) { t.config.quantize_lm_head = true; }},
      {"own head", [](TinyModel& t) { t.config.quantize_lm_head = true, t.config.tie_lm_head = false; }},
      {"dropout", [](TinyModel& t) { t.config.embd_dropout = t.config.attn_dropout = t.config.resid_dropout = 0.1; }}};
  for (const Variant& variant : variants) {
    for (const int bits : {3, 8, 11}) {
      TinyModel tiny;
      variant.set(tiny);
      tiny.build();
      tiny.randomize();
      const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), bits, bits, 8);
      ForwardContext context = tiny.context(map);
      context.training = true;
      EXPECT_TRUE(std::isfinite(tiny.backward(context))) << variant.name;
      for (int id = 0; id < tiny.model->parameters().count(); ++id) {
        const at::Tensor grad = tiny.model->parameters().tensor(id).grad();
        ASSERT_TRUE(grad.defined()) << variant.name << ": " << tiny.model->parameters().info(id).name;
        EXPECT_TRUE(at::isfinite(grad).all().item<bool>()) << variant.name;
        EXPECT_GT(grad.abs().max().item<double>(), 0.0)
            << variant.name << ": " << tiny.model->parameters().info(id).name;
      }
    }
  }
}

TEST(CptModel, DropoutDependsOnTheMicroBatchAndNotOnTheCall) {
  TinyModel tiny;
  tiny.config.embd_dropout = tiny.config.attn_dropout = tiny.config.resid_dropout = 0.2;
  tiny.build();
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 8, 8);
  ForwardContext context = tiny.context(map);
  context.training = true;
  const auto loss = [&](std::uint64_t micro_batch) {
    context.micro_batch = micro_batch;
    return tiny.loss(context);
  };
  EXPECT_EQ(loss(0), loss(0));
  EXPECT_NE(loss(0), loss(1));
}

// Two passes of a step over the same tokens, at two widths, say.
TEST(CptModel, EveryDrawDependsOnThePass) {
  TinyModel tiny;
  tiny.build();
  tiny.randomize();
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 8, 8, 4);
  ForwardContext context = tiny.context(map);
  const auto gradient = [&](std::uint64_t pass) {  // stochastic rounding: no dropout yet
    context.pass = pass;
    tiny.backward(context);
    return tiny.grad("transformer.h.0.attn.c_attn.weight").clone();
  };
  EXPECT_TRUE(at::equal(gradient(1), gradient(1)));
  EXPECT_FALSE(at::equal(gradient(0), gradient(1)));
  for (double Gpt2Config::*place : {&Gpt2Config::embd_dropout, &Gpt2Config::attn_dropout, &Gpt2Config::resid_dropout}) {
    TinyModel dropping;
    dropping.config.*place = 0.3;
    dropping.build();
    dropping.randomize();
    context.training = true;
    const auto loss = [&](std::uint64_t pass) {
      context.pass = pass;
      return dropping.loss(context);
    };
    EXPECT_EQ(loss(2), loss(2));
    EXPECT_NE(loss(0), loss(2));
  }
}

TEST(CptModel, WeightCodesCachedForAStepAreTheSameCodes) {
  TinyModel tiny;
  tiny.build();
  tiny.randomize();
  const at::NoGradGuard no_grad;
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 5, 5);
  WeightCache cache;
  ForwardContext context = tiny.context(map);
  const at::Tensor tokens = tiny.tokens(2, 9), fresh = tiny.model->hidden(tokens, context);
  context.weight_cache = &cache;
  EXPECT_TRUE(at::equal(tiny.model->hidden(tokens, context), fresh));
  EXPECT_TRUE(at::equal(tiny.model->hidden(tokens, context), fresh));
}

TEST(CptModel, InitialValuesDependOnSeedAndNameAlone) {
  TinyModel a, b, c;
  b.config.n_layer = 3;
  a.build(1), b.build(1), c.build(2);
  const auto value = [](const TinyModel& t, const char* name) { return t.model->parameters().tensor(t.id_of(name)); };
  EXPECT_TRUE(at::equal(value(a, "transformer.h.1.mlp.c_fc.weight"), value(b, "transformer.h.1.mlp.c_fc.weight")));
  EXPECT_FALSE(at::equal(value(a, "transformer.h.1.mlp.c_fc.weight"), value(c, "transformer.h.1.mlp.c_fc.weight")));
  const at::Tensor lora_a = value(a, "transformer.h.0.mlp.c_fc.lora_A.weight");
  EXPECT_LE(lora_a.abs().max().item<double>(), 1.0 / std::sqrt(16.0));  // bound 1/sqrt(in), not 1/sqrt(rank)
  EXPECT_GT(lora_a.abs().max().item<double>(), 0.8 / std::sqrt(16.0));
  EXPECT_EQ(value(a, "transformer.h.0.mlp.c_fc.lora_B.weight").abs().max().item<double>(), 0.0);
}

// The published count of the system this one follows: GPT-2 small, LoRA rank 16 on every linear and on an untied head.
TEST(CptModel, GptTwoSmallHasThePublishedParameterCounts) {
  TinyModel tiny;
  tiny.config = {.freeze_base = true, .tie_lm_head = false, .quantize_lm_head = true};
  tiny.lora = {.rank = 16, .alpha = 32};
  tiny.model = std::make_unique<Gpt2>(tiny.config, tiny.lora, tiny.quant, 8);
  const ParameterStore& store = tiny.model->parameters();
  EXPECT_EQ(store.trainable_elems(), 3'214'096);
  EXPECT_EQ(store.trainable_elems() + store.frozen_elems(), 166'212'880);
}

TEST(CptModel, TheAdapterIsScaledByAlphaOverRank) {
  at::Tensor results[2];
  for (const int twice : {0, 1}) {  // alpha doubled and B halved: the same adapter, exactly
    TinyModel tiny;
    tiny.lora.alpha = twice != 0 ? 16.0 : 8.0;
    tiny.build();
    tiny.randomize();
    if (twice != 0) {
      const at::NoGradGuard no_grad;
      for (const QuantLinear& linear : tiny.model->linears())
        tiny.model->parameters().tensor(linear.adapter(8)->b).mul_(0.5);
    }
    results[twice] = logits(tiny, tiny.tokens(2, 9), 8, 8);
  }
  EXPECT_TRUE(at::allclose(results[0], results[1], /*rtol=*/1e-5, /*atol=*/1e-5));
}

}  // namespace
}  // namespace qat
