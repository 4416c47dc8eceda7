// Quantized keys and values (quant.kv_bits) against a block written out by hand.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;

// One scale for each token's whole vector, over all heads; the gradient passes as if nothing had happened.
at::Tensor by_hand(const at::Tensor& x, int bits) {
  const double q_max = std::pow(2.0, bits - 1) - 1.0;
  const at::Tensor scale = x.detach().abs().amax(-1, /*keepdim=*/true) / q_max;
  return x + (at::round(x.detach() / scale) * scale - x.detach());
}

at::Tensor block_by_hand(const TinyModel& tiny, const at::Tensor& tokens, const ForwardContext& context) {
  const auto p = [&](const std::string& name) {
    return tiny.model->parameters().tensor(tiny.id_of("transformer." + name));
  };
  const std::int64_t d = tiny.config.n_embd, batch = tokens.size(0), length = tokens.size(1);
  const auto norm = [&](const at::Tensor& x, const std::string& name) {
    return at::layer_norm(x, {d}, p(name + ".weight"), p(name + ".bias"), 1e-5);
  };
  const auto head = [&](const at::Tensor& t) {
    return t.view({batch, length, tiny.config.n_head, -1}).transpose(1, 2);
  };
  const auto linears = tiny.model->linears();
  at::Tensor x = at::embedding(p("wte.weight"), tokens) + p("wpe.weight").narrow(0, 0, length);
  const auto qkv = linears[0].forward(norm(x, "h.0.ln_1"), context).split(d, 2);
  const int bits = tiny.quant.kv_bits;
  const at::Tensor k = by_hand(qkv[1], bits), v = by_hand(qkv[2], bits);
  const double scale = 1.0 / std::sqrt(static_cast<double>(d / tiny.config.n_head));
  const at::Tensor scores = at::matmul(head(qkv[0]), head(k).transpose(2, 3)) * scale;
  const at::Tensor weights = at::softmax(scores + at::full({length, length}, -INFINITY).triu(1), -1);
  const at::Tensor attended = at::matmul(weights, head(v)).transpose(1, 2).reshape({batch, length, d});
  x = x + linears[1].forward(attended, context);
  x = x + linears[3].forward(at::gelu(linears[2].forward(norm(x, "h.0.ln_2"), context), "tanh"), context);
  return norm(x, "ln_f");
}

TinyModel tiny_with(int kv_bits) {
  TinyModel tiny;
  tiny.config.n_layer = 1;
  tiny.quant.kv_bits = kv_bits;
  return tiny;
}

TEST(KvBits, QuantizeKeysAndValuesPerTokenAndPassTheGradientThrough) {
  for (const int bits : {2, 4, 8, 9, 16}) {
    SCOPED_TRACE(bits);
    TinyModel tiny = tiny_with(bits);
    tiny.build();
    tiny.randomize();
    // Unquantized activations and gradients: an exact reference needs no rounding boundaries but its own.
    const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 8, 32, 32, bits);
    const ForwardContext context = tiny.context(map);
    const at::Tensor tokens = tiny.tokens(2, 9);
    const at::Tensor got = tiny.model->hidden(tokens, context), want = block_by_hand(tiny, tokens, context);
    EXPECT_TRUE(at::allclose(got, want, /*rtol=*/1e-4, /*atol=*/1e-4));
    const auto& parameters = tiny.model->parameters().trainable_tensors();
    const auto g = torch::autograd::grad({at::sin(got).sum()}, parameters);
    const auto w = torch::autograd::grad({at::sin(want).sum()}, parameters);
    for (std::size_t i = 0; i < g.size(); ++i)
      EXPECT_LT((g[i] - w[i]).norm().item<double>(), 1e-3 * w[i].norm().item<double>() + 1e-5) << i;
  }
}

at::Tensor hidden(int kv_bits, int bits, bool calibrating) {
  TinyModel tiny = tiny_with(kv_bits);
  tiny.build();
  tiny.randomize();
  const at::NoGradGuard no_grad;
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), bits, bits, BitWidth::kFull, kv_bits);
  ForwardContext context = tiny.context(map);
  RangeObservers nobody;
  if (calibrating) context.observers = &nobody;
  return tiny.model->hidden(tiny.tokens(2, 9), context);
}

TEST(KvBits, ChangeNothingAt32BitsInAnUnquantizedPassAndInCalibration) {
  EXPECT_FALSE(at::equal(hidden(4, 8, false), hidden(QuantConfig{}.kv_bits, 8, false)));
  EXPECT_TRUE(at::equal(hidden(32, 8, false), hidden(QuantConfig{}.kv_bits, 8, false)));
  EXPECT_TRUE(at::equal(hidden(4, 32, false), hidden(32, 32, false)));
  EXPECT_TRUE(at::equal(hidden(4, 8, true), hidden(32, 8, true)));
}

}  // namespace
}  // namespace qat
