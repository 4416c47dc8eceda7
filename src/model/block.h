// One pre-norm transformer block of GPT-2 with its norms, quantized linear layers and dropout streams:
//
//   x = x + c_proj(attention(c_attn(ln_1(x))));   x = x + mlp.c_proj(gelu(c_fc(ln_2(x))))
//
// In a pass it runs fused (fused_block.h) where its layers allow it, or operator by operator: each block decides for
// itself, so that one layer at 9 bits costs its own block the fusion and no other.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <vector>

#include "src/model/fused_block.h"
#include "src/model/layer_norm.h"
#include "src/model/quant_linear.h"
#include "src/quant/compute_config.h"
#include "src/quant/torch_device.h"

namespace qat {

// What the blocks of a model have in common; what it refers to outlives them.
struct BlockConfig {
  const Gpt2Config& model;
  const LoraConfig& lora;
  const QuantConfig& quant;
  const ComputeMode& mode;
  Recompute recompute = Recompute::kNone;
};

// Dropout streams: one for the embeddings, and for each block so many of its own.
enum DropoutSlot : std::uint64_t { kEmbeddingSlot = 0, kAttentionSlot = 1, kAttentionOutSlot = 2, kMlpOutSlot = 3 };

class Block {
 public:
  // `layer` counts from 0 in the whole model. Declares the block's parameters in `store`, in order of use.
  Block(std::int64_t layer, const BlockConfig& config, ParameterStore& store);
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  // x: [M, D] each, the tokens of `sequences` of equal length one after another.
  ResidualPair forward(const ResidualPair& x, const ForwardContext& context, std::int64_t sequences) const;
  // Whether it runs fused in this pass.
  bool fuses(const ForwardContext& context) const;

  // In order of use: kBlockLinears.
  std::array<QuantLinear*, kLinearsPerBlock> linears() { return {&c_attn_, &attn_proj_, &c_fc_, &mlp_proj_}; }
  std::array<const QuantLinear*, kLinearsPerBlock> linears() const {
    return {&c_attn_, &attn_proj_, &c_fc_, &mlp_proj_};
  }

 private:
  ResidualPair run_fused(const FusedBlock& block, const ResidualPair& x, const ForwardContext& context,
                         std::int64_t sequences) const;
  ResidualPair run_by_operators(const ResidualPair& x, const ForwardContext& context, std::int64_t sequences) const;
  FusedBlock fused_block(const ForwardContext& context) const;
  // q, k, v: [M, D] each -> [M, D].
  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const ForwardContext& context,
                    std::int64_t sequences) const;
  // The same with keys and values of earlier tokens before these (context.kv_cache).
  at::Tensor attend_with_cache(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const ForwardContext& context, std::int64_t sequences) const;
  // Keys or values, [B, T, D], as attention of this pass takes them.
  at::Tensor quantized_kv(const at::Tensor& x, const ForwardContext& context) const;
  at::Tensor residual_dropout(const at::Tensor& x, const ForwardContext& context, DropoutSlot slot) const;
  kernels::RngKey dropout_key(const ForwardContext& context, DropoutSlot slot) const;
  // That this pass uses.
  std::vector<at::Tensor> parameters(const ForwardContext& context) const;
  // Of a linear layer's weights in this pass, which is that of the norm before it.
  static int weight_bits(const QuantLinear& linear, const ForwardContext& context);

  std::int64_t layer_;
  BlockConfig config_;
  Quantizer kv_;
  // In this order, in which they declare their parameters.
  LayerNorm ln_1_;
  QuantLinear c_attn_, attn_proj_;
  LayerNorm ln_2_;
  QuantLinear c_fc_, mlp_proj_;
};

}  // namespace qat
