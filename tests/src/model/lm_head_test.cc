// The quantized output projection in chunks, against the layer by itself and against floats.
#include "src/loss/lm_head.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "src/loss/lm_head_loss.h"
#include "src/quant/straight_through.h"
#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;

constexpr std::int64_t kTokens = 13, kWords = 37, kWidth = 24, kRank = 4;
constexpr double kScaling = 1.5;

struct Operands {
  at::Tensor h, w, a, b;
  at::Tensor targets;
};

Operands operands(bool frozen = false) {
  torch::manual_seed(4);
  const auto leaf = [](at::Tensor t, bool wanted) { return t.requires_grad_(wanted); };
  Operands out;
  out.h = leaf(at::randn({kTokens, kWidth}), true);
  out.w = leaf(at::randn({kWords, kWidth}) * 0.3, !frozen);
  out.a = leaf(at::randn({kRank, kWidth}) * 0.2, true);
  out.b = leaf(at::randn({kWords, kRank}) * 0.2, true);
  out.targets = at::randint(kWords, {kTokens}, at::kLong);
  return out;
}

LmHead coded(const Operands& x, int weight_bits, int activation_bits, bool adapter) {
  LmHead head{.linear = {}, .activation = BitWidth(activation_bits), .weight = {x.w, 0}};
  HeadParameters parameters{.w = x.w, .a = {}, .b = {}, .alpha = kScaling * kRank};
  if (adapter) {
    head.lora_a = {x.a, 1}, head.lora_b = {x.b, 2};
    parameters.a = x.a, parameters.b = x.b;
  }
  head.linear = std::make_shared<const PreparedLinear>(
      coded_head(parameters, BitWidth(weight_bits), at::kFloat, /*backward=*/true));
  return head;
}

// Gradients of h, w and, if there is an adapter, A and B; undefined: none.
std::vector<at::Tensor> gradients_of(const LossOfHidden& loss) {
  std::vector<at::Tensor> all = {loss.hidden, loss.gradients.weight};
  if (loss.gradients.lora_a.defined()) all.push_back(loss.gradients.lora_a), all.push_back(loss.gradients.lora_b);
  return all;
}

// Quantized values, gradients passed straight through, everything in floats.
at::Tensor loss_in_floats(const Operands& x, int weight_bits, int activation_bits, bool adapter) {
  const QuantizerConfig rows{.granularity = Granularity::kToken};
  const auto q = [&](const at::Tensor& t, int bits) {
    return straight_through(t, Quantizer("head", "any", rows).fake_quant(t.detach(), BitWidth(bits)));
  };
  const at::Tensor h = q(x.h, activation_bits);
  at::Tensor z = at::mm(h, q(x.w, weight_bits).t());
  if (adapter) z = z + at::mm(at::mm(h, q(x.a, weight_bits).t()), q(x.b, weight_bits).t()) * kScaling;
  return cross_entropy(z, x.targets);
}

void expect_close(const std::vector<at::Tensor>& got, const std::vector<at::Tensor>& want, double tolerance) {
  for (std::size_t i = 0; i < want.size(); ++i)
    EXPECT_LT((got[i] - want[i]).norm().item<double>(), tolerance * want[i].norm().item<double>()) << i;
}

TEST(CodedHead, HasTheLossAndTheGradientsOfQuantizedFloats) {
  for (const int bits : {8, 3}) {
    for (const bool adapter : {true, false}) {
      SCOPED_TRACE(std::to_string(bits) + (adapter ? " bits with adapter" : " bits"));
      const Operands x = operands();
      std::vector<at::Tensor> wanted = {x.h, x.w};
      if (adapter) wanted.push_back(x.a), wanted.push_back(x.b);
      const at::Tensor want = loss_in_floats(x, bits, 8, adapter);
      const LossOfHidden got = lm_head_loss(x.h, coded(x, bits, 8, adapter), x.targets);
      EXPECT_NEAR(got.loss.item<double>(), want.item<double>(), 1e-6 * want.item<double>());
      expect_close(gradients_of(got), torch::autograd::grad({want}, wanted), 1e-5);
    }
  }
}

TEST(CodedHead, ChunksChangeNothingButRounding) {
  const Operands x = operands();
  const LmHead head = coded(x, 8, 8, /*adapter=*/true);
  const LossOfHidden whole = lm_head_loss(x.h, head, x.targets);
  const double mean = whole.loss.item<double>();
  for (const std::int64_t rows : {1, 5}) {
    const std::int64_t bytes = rows * kWords * 4;
    const LossOfHidden loss = lm_head_loss(x.h, head, x.targets, {}, bytes);
    EXPECT_NEAR(loss.loss.item<double>(), mean, 1e-6);
    expect_close(gradients_of(loss), gradients_of(whole), 1e-5);
    const at::Tensor nll = lm_head_token_nll(x.h, head, x.targets, bytes);
    EXPECT_NEAR(nll.mean().item<double>(), mean, 1e-5);
  }
}

TEST(CodedHead, AFrozenBaseTrainsTheAdapterAlone) {
  const Operands x = operands(/*frozen=*/true), free = operands();
  const LossOfHidden got = lm_head_loss(x.h, coded(x, 8, 8, true), x.targets);
  const LossOfHidden want = lm_head_loss(free.h, coded(free, 8, 8, true), free.targets);
  EXPECT_FALSE(got.gradients.weight.defined());
  EXPECT_TRUE(at::equal(got.hidden, want.hidden));
  EXPECT_TRUE(at::equal(got.gradients.lora_a, want.gradients.lora_a));
  EXPECT_TRUE(at::equal(got.gradients.lora_b, want.gradients.lora_b));
}

TinyModel model_with_head(bool tied, std::int64_t rank, bool quantized = true) {
  TinyModel tiny;
  tiny.config.quantize_lm_head = quantized;
  tiny.config.tie_lm_head = tied;
  tiny.lora.rank = rank;
  tiny.build();
  tiny.randomize();
  return tiny;
}

TEST(QuantizedLmHead, HasTheLossOfTheLayerByItself) {
  for (const bool tied : {true, false}) {
    for (const std::int64_t rank : {0, 4}) {
      const TinyModel tiny = model_with_head(tied, rank);
      for (const int bits : {8, 4}) {
        SCOPED_TRACE(bits);
        // The head has widths of its own: those of its entry in the map.
        const PrecisionMap map = PrecisionMap::make(tiny.model->linear_names(), {BitWidth(bits), BitWidth(bits)},
                                                    {{.layers = "lm_head", .weight_bits = 5, .activation_bits = 6}});
        WeightCache cache;
        ForwardContext context = tiny.context(map);
        context.weight_cache = &cache;
        const at::Tensor tokens = tiny.tokens(2, 9), targets = tiny.tokens(2, 9, 8);
        const at::Tensor logits = tiny.model->logits(tiny.model->hidden(tokens, context), context);
        const double want =
            cross_entropy(logits.reshape({-1, tiny.config.vocab_size}), targets.flatten()).item<double>();
        EXPECT_NEAR(tiny.loss(context), want, 1e-6 * want);
        const at::Tensor nll = tiny.model->token_nll(tokens, targets, context);
        EXPECT_EQ(nll.sizes(), tokens.sizes());
        EXPECT_NEAR(nll.mean().item<double>(), want, 1e-6 * want);
      }
    }
  }
}

TEST(QuantizedLmHead, RoundsNoGradientOfItsOwn) {
  const TinyModel tiny = model_with_head(/*tied=*/false, /*rank=*/4);
  const auto gradients = [&](int bits) {  // those of the head depend on no gradient below it
    const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 4, 4, bits);
    tiny.backward(tiny.context(map));
    return std::vector{tiny.grad("lm_head.weight"), tiny.grad("lm_head.lora_A.weight"),
                       tiny.grad("lm_head.lora_B.weight")};
  };
  const auto rounded = gradients(3), full = gradients(32);
  for (std::size_t i = 0; i < full.size(); ++i) EXPECT_TRUE(at::equal(rounded[i], full[i])) << i;
}

TEST(QuantizedLmHead, AnUnquantizedPassIsThatOfAnUnquantizedHead) {
  const TinyModel quantized = model_with_head(/*tied=*/true, /*rank=*/0),
                  plain = model_with_head(/*tied=*/true, /*rank=*/0, /*quantized=*/false);
  const auto loss = [](const TinyModel& tiny) {
    const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 32, 32);
    return tiny.loss(tiny.context(map));
  };
  EXPECT_EQ(loss(quantized), loss(plain));
}

// What a chunk cannot code goes through all logits at once: no chunk knows the scale of the whole tensor.
TEST(QuantizedLmHead, OtherQuantizersKeepTheLayerByItself) {
  for (const char* what : {"tensor", "log", "float adapter", "wide"}) {
    SCOPED_TRACE(what);
    const std::string name = what;
    TinyModel tiny;
    tiny.config.quantize_lm_head = true;
    if (name == "tensor") tiny.quant.activation.granularity = Granularity::kTensor;
    if (name == "log") tiny.quant.weight.method = QuantizerKind::kLog;
    if (name == "float adapter") tiny.lora.quantize = false;
    tiny.build();
    tiny.randomize();
    const int bits = name == "wide" ? 12 : 6;
    const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), bits, bits, 8);
    const ForwardContext context = tiny.context(map);
    const at::Tensor tokens = tiny.tokens(2, 9), targets = tiny.tokens(2, 9, 8);
    const at::Tensor logits = tiny.model->logits(tiny.model->hidden(tokens, context), context);
    const at::Tensor want = cross_entropy(logits.reshape({-1, tiny.config.vocab_size}), targets.flatten());
    EXPECT_EQ(tiny.loss(context), want.item<double>());
  }
}

}  // namespace
}  // namespace qat
