// What the network is beside its products: initial values, dropout, flags of its parameters, limits.
#include "src/model/gpt2.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "kernels/common/error.h"
#include "src/model/dropout.h"
#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;

TEST(Gpt2, InitialValuesHaveGptTwosSpreads) {
  TinyModel tiny;
  tiny.config.n_embd = 64;
  tiny.build();
  const auto spread = [&](const std::string& name) {
    return tiny.model->parameters().tensor(tiny.id_of(name)).std().item<double>();
  };
  EXPECT_NEAR(spread("transformer.wte.weight"), 0.02, 0.002);
  EXPECT_NEAR(spread("transformer.h.0.mlp.c_fc.weight"), 0.02, 0.001);
  EXPECT_NEAR(spread("transformer.h.1.mlp.c_proj.weight"), 0.02 / std::sqrt(2.0 * 2.0), 0.0005);
  EXPECT_NEAR(spread("transformer.h.1.attn.c_proj.weight"), 0.02 / std::sqrt(2.0 * 2.0), 0.0005);
  const auto value = [&](const std::string& name) { return tiny.model->parameters().tensor(tiny.id_of(name)); };
  EXPECT_FALSE(at::equal(value("transformer.h.0.mlp.c_fc.weight"), value("transformer.h.1.mlp.c_fc.weight")));
  EXPECT_TRUE(at::equal(value("transformer.ln_f.weight"), at::ones({64})));
  EXPECT_TRUE(at::equal(value("transformer.h.0.ln_1.bias"), at::zeros({64})));
}

TEST(Gpt2, MatricesDecayAndNormsAndBiasesDoNot) {
  TinyModel tiny;
  tiny.config.tie_lm_head = false, tiny.config.quantize_lm_head = true;
  tiny.build();
  for (const ParameterInfo& info : tiny.model->parameters().infos())
    EXPECT_EQ(info.decay, info.shape.size() == 2) << info.name;
}

TEST(Gpt2, CountsAMultiplyAccumulatePerWeight) {
  TinyModel tiny;
  tiny.config.quantize_lm_head = true;
  tiny.build();
  const std::vector<std::int64_t> want = {16 * 48, 16 * 16, 16 * 64, 64 * 16};
  for (std::size_t i = 0; i < want.size(); ++i)
    EXPECT_EQ(tiny.model->macs_per_token(static_cast<std::int64_t>(i)), want[i]);
  EXPECT_EQ(tiny.model->macs_per_token(8), 16 * 29);
}

TEST(Gpt2, TakesSequencesUpToItsPositionsAndAWidthForEveryLayer) {
  TinyModel tiny;
  tiny.build();
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 8, 8), fewer = PrecisionMap::uniform(7, 8, 8);
  EXPECT_NO_THROW((void)tiny.model->hidden(tiny.tokens(1, 12), tiny.context(map)));
  EXPECT_THROW((void)tiny.model->hidden(tiny.tokens(1, 13), tiny.context(map)), Error);
  EXPECT_THROW((void)tiny.model->hidden(tiny.tokens(1, 12), tiny.context(fewer)), Error);
}

// Dropout of the embeddings, of attention's weights and of what each half of a block adds: a place's stream is number
// (block + 1) * 4 + {1, 2, 3}, the embeddings' is 0. Other streams would change every resumed run.
at::Tensor hidden_by_hand(const TinyModel& tiny, const at::Tensor& tokens, const ForwardContext& context) {
  const auto p = [&](const std::string& name) {
    return tiny.model->parameters().tensor(tiny.id_of("transformer." + name));
  };
  const Gpt2Config& c = tiny.config;
  const std::int64_t d = c.n_embd, batch = tokens.size(0), length = tokens.size(1);
  const auto drop = [&](const at::Tensor& x, double rate, std::uint64_t slot) {
    return dropped(x, rate, context.rng(RngPurpose::kDropout, slot));
  };
  const auto norm = [&](const at::Tensor& x, const std::string& name) {
    return at::layer_norm(x, {d}, p(name + ".weight"), p(name + ".bias"), 1e-5);
  };
  const auto head = [&](const at::Tensor& t) { return t.view({batch, length, c.n_head, -1}).transpose(1, 2); };
  const auto linears = tiny.model->linears();
  at::Tensor x = drop(at::embedding(p("wte.weight"), tokens) + p("wpe.weight").narrow(0, 0, length), c.embd_dropout, 0);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    const std::string h = "h." + std::to_string(layer);
    const std::uint64_t slot = (layer + 1) * 4;
    const auto linear = [&](std::size_t i, const at::Tensor& in) {
      return linears[4 * layer + i].forward(in, context);
    };
    const auto qkv = linear(0, norm(x, h + ".ln_1")).split(d, 2);
    const double scale = 1.0 / std::sqrt(static_cast<double>(d / c.n_head));
    const at::Tensor scores = at::matmul(head(qkv[0]), head(qkv[1]).transpose(2, 3)) * scale;
    const at::Tensor weights = at::softmax(scores + at::full({length, length}, -INFINITY).triu(1), -1);
    const at::Tensor attended = at::matmul(drop(weights, c.attn_dropout, slot + 1), head(qkv[2]));
    x = x + drop(linear(1, attended.transpose(1, 2).reshape({batch, length, d})), c.resid_dropout, slot + 2);
    x = x + drop(linear(3, at::gelu(linear(2, norm(x, h + ".ln_2")), "tanh")), c.resid_dropout, slot + 3);
  }
  return norm(x, "ln_f");
}

TEST(Gpt2, DropsWithTheRateAndTheStreamOfEachPlaceAndOnlyInTraining) {
  TinyModel tiny;
  tiny.config.embd_dropout = 0.1, tiny.config.attn_dropout = 0.2, tiny.config.resid_dropout = 0.3;
  tiny.build();
  tiny.randomize();
  const at::NoGradGuard no_grad;
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 32, 32);
  ForwardContext context = tiny.context(map);
  context.step = 3, context.micro_batch = 2;
  const at::Tensor tokens = tiny.tokens(3, 9), in_evaluation = tiny.model->hidden(tokens, context);
  context.training = true;
  EXPECT_TRUE(at::allclose(tiny.model->hidden(tokens, context), hidden_by_hand(tiny, tokens, context), 1e-4, 1e-4));
  context.training = false;
  tiny.config.embd_dropout = tiny.config.attn_dropout = tiny.config.resid_dropout = 0.0;
  EXPECT_TRUE(at::allclose(in_evaluation, hidden_by_hand(tiny, tokens, context), 1e-4, 1e-4));
}

TEST(Gpt2, TheHeadRunsInChunksOnlyWhereAChunkKnowsItsScales) {
  const auto on_codes = [](const std::function<void(TinyModel&)>& set) {
    TinyModel tiny;
    tiny.config.quantize_lm_head = true;
    set(tiny);
    tiny.build();
    return tiny.model->head_on_codes(PrecisionMap::uniform(tiny.config.linears(), 6, 6));
  };
  EXPECT_TRUE(on_codes([](TinyModel&) {}));
  EXPECT_TRUE(on_codes([](TinyModel& t) { t.lora.rank = 0, t.lora.quantize = false; }));
  EXPECT_FALSE(on_codes([](TinyModel& t) { t.config.quantize_lm_head = false; }));
  EXPECT_FALSE(on_codes([](TinyModel& t) { t.lora.quantize = false; }));
  EXPECT_FALSE(on_codes([](TinyModel& t) { t.lora.input = AdapterInput::kRaw; }));
  EXPECT_FALSE(on_codes([](TinyModel& t) { t.quant.weight.by_width = {{6, QuantizerKind::kLog}}; }));
  EXPECT_TRUE(on_codes([](TinyModel& t) { t.quant.weight.by_width = {{7, QuantizerKind::kLog}}; }));
  EXPECT_TRUE(on_codes([](TinyModel& t) {
    t.lora.slots = Slots::kPerWidth;
    t.lora.quantize = false;
    t.lora.per_width = {{.bits = 6, .quantize = true}};
  }));
  EXPECT_FALSE(on_codes([](TinyModel& t) { t.quant.weight.granularity = Granularity::kTensor; }));
  EXPECT_FALSE(on_codes([](TinyModel& t) { t.quant.activation.granularity = Granularity::kTensor; }));
  EXPECT_FALSE(on_codes([](TinyModel& t) { t.quant.activation.range = RangeSource::kCalibrated; }));
}

}  // namespace
}  // namespace qat
