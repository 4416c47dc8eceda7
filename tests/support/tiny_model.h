// A GPT-2 small enough for a unit test, with random parameters.
#pragma once

#include <torch/torch.h>

#include <memory>

#include "src/model/gpt2.h"

namespace qat::test {

struct TinyModel {
  Gpt2Config config{.preset = "", .n_layer = 2, .n_head = 2, .n_embd = 16, .n_positions = 12, .vocab_size = 29};
  LoraConfig lora{.rank = 4, .alpha = 8.0};
  QuantConfig quant;
  std::unique_ptr<Gpt2> model;

  void build(std::uint64_t seed = 3) {
    model = std::make_unique<Gpt2>(config, lora, quant, /*pad_to=*/8);
    model->init_random(seed);
  }
  // Makes every parameter random and far from its initial value: biases, norms and LoRA B matter in what is computed.
  void randomize(std::uint64_t seed = 5) {
    torch::manual_seed(seed);
    for (int id = 0; id < model->parameters().count(); ++id) {
      const at::NoGradGuard no_grad;
      at::Tensor t = model->parameters().tensor(id);
      const bool norm_weight = t.dim() == 1 && model->parameters().info(id).name.find("ln_") != std::string::npos;
      t.copy_(at::randn(t.sizes()) * (t.dim() == 1 ? 0.1 : 0.3) + (norm_weight ? 1.0 : 0.0));
    }
  }
  at::Tensor tokens(std::int64_t batch, std::int64_t length, std::uint64_t seed = 7) const {
    torch::manual_seed(seed);
    return at::randint(config.vocab_size, {batch, length}, at::kLong);
  }
  ForwardContext context(const PrecisionMap& precision) const { return {.precision = &precision, .seed = 11}; }
  int id_of(const std::string& name) const {
    for (int id = 0; id < model->parameters().count(); ++id)
      if (model->parameters().info(id).name == name) return id;
    ADD_FAILURE() << "no parameter " << name;
    return 0;
  }
  // The same two sequences every time.
  LossAndGradients pass(const ForwardContext& context) const {
    return model->loss_and_gradients({.tokens = tokens(2, 9)}, tokens(2, 9, 8), context);
  }
  double loss(const ForwardContext& context) const { return pass(context).loss.item<double>(); }
  // Leaves the gradients with the parameters, where grad() finds them; returns the loss.
  double backward(const ForwardContext& context) const {
    const LossAndGradients found = pass(context);
    const std::vector<at::Tensor>& tensors = model->parameters().trainable_tensors();
    for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i].mutable_grad() = found.gradients.parameters[i];
    return found.loss.item<double>();
  }
  at::Tensor grad(const std::string& name) const { return model->parameters().tensor(id_of(name)).grad(); }
};

}  // namespace qat::test
