// GPT-2 at any width: pre-norm blocks, tanh GELU, learned positions, layer-norm eps 1e-5
// (Radford et al. 2019; parameters under Hugging Face's names, linear weights stored [out, in]).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/loss/lm_head.h"
#include "src/model/forward_context.h"
#include "src/model/gpt2_config.h"
#include "src/model/parameter_store.h"
#include "src/model/quant_linear.h"
#include "src/model/recompute.h"
#include "src/quant/torch_device.h"

namespace qat {

class Gpt2 {
 public:
  // Declares and allocates all parameters; `pad_to` is ParameterStore::allocate's. Values are zero until
  // init_random() or a checkpoint fills them. The configs must outlive the model.
  // `mode` says where the parameters live and in which dtype activations are, `recompute` what backward computes again:
  // it changes memory and time, and no bit. Under kBlock what a pass's context points to must live until its backward.
  Gpt2(const Gpt2Config& config, const LoraConfig& lora, const QuantConfig& quant, std::int64_t pad_to,
       const ComputeMode& mode = {}, Recompute recompute = Recompute::kNone);
  Gpt2(const Gpt2&) = delete;
  Gpt2& operator=(const Gpt2&) = delete;

  // normal(0, 0.02); projections into the residual stream normal(0, 0.02 / sqrt(2 n_layer)); biases 0; norms 1 and 0;
  // LoRA A uniform(+-1/sqrt(in)), B 0. A function of (seed, parameter name) alone.
  void init_random(std::uint64_t seed);

  // tokens: int64 [B, T] -> hidden states after the last norm, [B, T, d].
  // add_embedding_gradient_to: token_embedding()'s add_to.
  at::Tensor hidden(const at::Tensor& tokens, const ForwardContext& context,
                    const at::Tensor& add_embedding_gradient_to = {}) const;
  // [B, T, d] -> [B, T, V].
  at::Tensor logits(const at::Tensor& hidden, const ForwardContext& context) const;
  // Mean cross-entropy over all B * T targets (int64 [B, T]).
  at::Tensor loss(const at::Tensor& tokens, const at::Tensor& targets, const ForwardContext& context) const;
  // Whether a pass takes the fused blocks (fused_block.h) or goes operator by operator.
  bool fuses(const ForwardContext& context) const;
  // Whether the output projection runs on codes, in chunks; it then rounds no gradient (docs/training-numerics.md).
  bool head_on_codes(const PrecisionMap& precision) const;
  const ComputeMode& mode() const { return mode_; }
  // Per-token negative log-likelihood, no gradient: fp32 [B, T].
  at::Tensor token_nll(const at::Tensor& tokens, const at::Tensor& targets, const ForwardContext& context) const;

  const Gpt2Config& config() const { return config_; }
  ParameterStore& parameters() { return store_; }
  const ParameterStore& parameters() const { return store_; }
  std::vector<QuantLinear>& linears() { return linears_; }
  const std::vector<QuantLinear>& linears() const { return linears_; }
  const std::vector<std::string>& linear_names() const { return linear_names_; }
  // Multiply-accumulates of a linear layer per token, by PrecisionMap index.
  std::int64_t macs_per_token(std::int64_t linear) const;

 private:
  struct Norm {
    int weight = -1, bias = -1;
  };
  struct Block {
    Norm ln_1, ln_2;
    std::size_t c_attn = 0, attn_proj = 0, c_fc = 0, mlp_proj = 0;  // in linears_
  };

  Norm add_norm(const std::string& name);
  // The next of linear_names_.
  std::size_t add_linear(std::int64_t in, std::int64_t out, const QuantConfig& quant, const LoraConfig& lora);
  void add_head(const QuantConfig& quant, const LoraConfig& lora);
  at::Tensor norm(const at::Tensor& x, const Norm& norm) const;
  FusedNorm fused_norm_of(const Norm& norm) const;
  FusedBlock fused_block_of(const ForwardContext& context, std::int64_t layer) const;
  std::vector<at::Tensor> parameters_of(const Block& block) const;
  at::Tensor embed(const at::Tensor& tokens, const at::Tensor& add_gradient_to) const;
  at::Tensor hidden_fused(const at::Tensor& x, const ForwardContext& context, std::int64_t batch) const;
  at::Tensor hidden_by_operators(const at::Tensor& x, const ForwardContext& context) const;
  // One block, `layer` counted from 0. Pair: [M, d] each; x: [B, T, d].
  ResidualPair fused_block(const FusedBlock& block, const ResidualPair& x, const ForwardContext& context,
                           std::int64_t layer, std::int64_t batch) const;
  at::Tensor block_by_operators(const at::Tensor& x, const ForwardContext& context, std::int64_t layer) const;
  // q, k, v: [B, T, d] -> [B, T, d].
  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const ForwardContext& context,
                    std::int64_t layer) const;
  // Keys or values, [B, T, d], as attention of this pass takes them.
  at::Tensor quantized_kv(const at::Tensor& x, const ForwardContext& context, const Block& block) const;
  at::Tensor attention(const Block& block, const at::Tensor& x, const ForwardContext& context,
                       std::int64_t layer) const;
  at::Tensor mlp(const Block& block, const at::Tensor& x, const ForwardContext& context) const;
  at::Tensor dropout(const at::Tensor& x, double p, const ForwardContext& context, std::uint64_t slot) const;
  const at::Tensor& head_weight() const;
  // The output projection in the form that takes chunks of tokens; none: it goes operator by operator.
  std::optional<LmHead> chunked_head(const ForwardContext& context) const;
  LmHead plain_head(const ForwardContext& context) const;
  LmHead coded_head(const ForwardContext& context) const;

  Gpt2Config config_;
  LoraConfig lora_;
  const QuantConfig* quant_;
  ComputeMode mode_;
  Recompute recompute_;
  Quantizer kv_;
  ParameterStore store_;
  std::vector<QuantLinear> linears_;
  std::vector<std::string> linear_names_;
  std::vector<Block> blocks_;
  int wte_ = -1, wpe_ = -1, head_ = -1;
  Norm ln_f_;
};

}  // namespace qat
