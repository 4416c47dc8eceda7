// The unquantized model against GPT-2 written with LibTorch's own modules.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <map>
#include <string>

#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;

struct ReferenceBlock : torch::nn::Module {
  ReferenceBlock(std::int64_t d, std::int64_t heads_in) : heads(heads_in) {
    ln_1 = register_module("ln_1", torch::nn::LayerNorm(torch::nn::LayerNormOptions({d}).eps(1e-5)));
    ln_2 = register_module("ln_2", torch::nn::LayerNorm(torch::nn::LayerNormOptions({d}).eps(1e-5)));
    c_attn = register_module("attn_c_attn", torch::nn::Linear(d, 3 * d));
    attn_proj = register_module("attn_c_proj", torch::nn::Linear(d, d));
    c_fc = register_module("mlp_c_fc", torch::nn::Linear(d, 4 * d));
    mlp_proj = register_module("mlp_c_proj", torch::nn::Linear(4 * d, d));
  }
  at::Tensor forward(at::Tensor x) {
    const auto b = x.size(0), t = x.size(1), d = x.size(2);
    const auto qkv = c_attn->forward(ln_1->forward(x)).chunk(3, 2);
    const auto head = [&](const at::Tensor& part) { return part.view({b, t, heads, d / heads}).transpose(1, 2); };
    auto scores = torch::matmul(head(qkv[0]), head(qkv[1]).transpose(2, 3)) / std::sqrt(double(d / heads));
    scores = scores + torch::full({t, t}, -INFINITY).triu(1);
    const auto attended = torch::matmul(torch::softmax(scores, 3), head(qkv[2]));
    x = x + attn_proj->forward(attended.transpose(1, 2).contiguous().view({b, t, d}));
    const auto u = c_fc->forward(ln_2->forward(x));
    const auto gelu = 0.5 * u * (1.0 + torch::tanh(std::sqrt(2.0 / M_PI) * (u + 0.044715 * u * u * u)));
    return x + mlp_proj->forward(gelu);
  }
  std::int64_t heads;
  torch::nn::LayerNorm ln_1{nullptr}, ln_2{nullptr};
  torch::nn::Linear c_attn{nullptr}, attn_proj{nullptr}, c_fc{nullptr}, mlp_proj{nullptr};
};

struct ReferenceGpt2 : torch::nn::Module {
  explicit ReferenceGpt2(const Gpt2Config& c) {
    wte = register_module("wte", torch::nn::Embedding(c.vocab_size, c.n_embd));
    wpe = register_module("wpe", torch::nn::Embedding(c.n_positions, c.n_embd));
    for (std::int64_t i = 0; i < c.n_layer; ++i)
      blocks.push_back(register_module("h_" + std::to_string(i), std::make_shared<ReferenceBlock>(c.n_embd, c.n_head)));
    ln_f = register_module("ln_f", torch::nn::LayerNorm(torch::nn::LayerNormOptions({c.n_embd}).eps(1e-5)));
  }
  at::Tensor forward(const at::Tensor& tokens) {
    auto x = wte->forward(tokens) + wpe->forward(torch::arange(tokens.size(1)));
    for (auto& block : blocks) x = block->forward(x);
    return torch::matmul(ln_f->forward(x), wte->weight.t());
  }
  torch::nn::Embedding wte{nullptr}, wpe{nullptr};
  std::vector<std::shared_ptr<ReferenceBlock>> blocks;
  torch::nn::LayerNorm ln_f{nullptr};
};

// transformer.h.0.attn.c_attn.weight -> h_0.attn_c_attn.weight
std::string reference_name(std::string name) {
  name = name.substr(std::string("transformer.").size());
  for (const char* from : {"h.", "attn.", "mlp."}) {
    const std::size_t at = name.find(from);
    if (at == std::string::npos || (std::string(from) == "h." && at != 0)) continue;
    name[at + std::string(from).size() - 1] = '_';
  }
  return name;
}

class Gpt2Reference : public ::testing::Test {
 protected:
  void SetUp() override {
    tiny_.lora.rank = 0;
    tiny_.build();
    tiny_.randomize();
    reference_ = std::make_shared<ReferenceGpt2>(tiny_.config);
    const at::NoGradGuard no_grad;
    auto named = reference_->named_parameters();
    for (int id = 0; id < tiny_.model->parameters().count(); ++id) {
      const std::string name = reference_name(tiny_.model->parameters().info(id).name);
      ASSERT_NE(named.find(name), nullptr) << name;
      named[name].copy_(tiny_.model->parameters().tensor(id));
    }
  }
  TinyModel tiny_;
  std::shared_ptr<ReferenceGpt2> reference_;
};

TEST_F(Gpt2Reference, UnquantizedLogitsAreTheReferences) {
  const PrecisionMap full = PrecisionMap::uniform(tiny_.config.linears(), 32, 32);
  const at::Tensor tokens = tiny_.tokens(3, 10);
  const auto context = tiny_.context(full);
  const at::Tensor ours = tiny_.model->logits(tiny_.model->hidden(tokens, context), context);
  const at::Tensor theirs = reference_->forward(tokens);
  EXPECT_LT((ours - theirs).norm().item<double>() / theirs.norm().item<double>(), 1e-5);
  EXPECT_TRUE(at::allclose(ours, theirs, 1e-4, 1e-4));
}

TEST_F(Gpt2Reference, UnquantizedGradientsAreTheReferences) {
  const PrecisionMap full = PrecisionMap::uniform(tiny_.config.linears(), 32, 32);
  const at::Tensor tokens = tiny_.tokens(3, 10), targets = tiny_.tokens(3, 10, 8);
  const LossAndGradients pass = tiny_.model->loss_and_gradients({.tokens = tokens}, targets, tiny_.context(full));
  const at::Tensor expected = torch::nn::functional::cross_entropy(
      reference_->forward(tokens).reshape({-1, tiny_.config.vocab_size}), targets.reshape({-1}));
  expected.backward();
  EXPECT_NEAR(pass.loss.item<double>(), expected.item<double>(), 1e-5 * expected.item<double>());
  auto named = reference_->named_parameters();
  for (int id = 0; id < tiny_.model->parameters().count(); ++id) {
    const std::string name = tiny_.model->parameters().info(id).name;
    const at::Tensor ours =
        pass.gradients.parameters.at(static_cast<std::size_t>(tiny_.model->parameters().info(id).trainable_index));
    const at::Tensor theirs = named[reference_name(name)].grad();
    ASSERT_TRUE(ours.defined()) << name;
    EXPECT_LT((ours - theirs).norm().item<double>(), 1e-3 * theirs.norm().item<double>() + 1e-7) << name;
  }
}

TEST_F(Gpt2Reference, TokenLikelihoodsAverageToTheLoss) {
  const PrecisionMap full = PrecisionMap::uniform(tiny_.config.linears(), 32, 32);
  const at::Tensor tokens = tiny_.tokens(3, 10), targets = tiny_.tokens(3, 10, 8);
  const double loss =
      tiny_.model->loss_and_gradients({.tokens = tokens}, targets, tiny_.context(full)).loss.item<double>();
  const at::Tensor nll = tiny_.model->token_nll(tokens, targets, tiny_.context(full));
  EXPECT_EQ(nll.sizes(), tokens.sizes());
  EXPECT_NEAR(nll.mean(at::kDouble).item<double>(), loss, 1e-5 * loss);
}

}  // namespace
}  // namespace qat
