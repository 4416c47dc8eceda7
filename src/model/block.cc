#include "src/model/block.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <string>

#include "kernels/common/trace_range.h"
#include "src/model/attention.h"
#include "src/model/dropout.h"
#include "src/model/kv_cache.h"
#include "src/model/recompute.h"
#include "src/model/traced.h"
#include "src/quant/straight_through.h"

// Shape suffixes: M tokens, B sequences, T tokens of each, D width.

namespace qat {
namespace {

constexpr std::uint64_t kSlots = 4;
constexpr int kMostCodeBits = 8;  // of keys and values that become int8 codes

// The n-th linear layer of a block.
QuantLinear add_linear(std::int64_t layer, std::int64_t n, std::int64_t in, std::int64_t out, const BlockConfig& config,
                       ParameterStore& store) {
  const std::string name = "h." + std::to_string(layer) + "." + kBlockLinears[static_cast<std::size_t>(n)];
  const bool train_base = !config.model.freeze_base;
  LinearSpec spec{.name = name,
                  .parameter_prefix = "transformer." + name,
                  .index = layer * kLinearsPerBlock + n,
                  .in_features = in,
                  .out_features = out};
  spec.weight = store.add(spec.parameter_prefix + ".weight", {out, in}, GroupKind::kBase, train_base, true);
  store.mark_coded(spec.weight);
  spec.bias = store.add(spec.parameter_prefix + ".bias", {out}, GroupKind::kBase, train_base, /*decay=*/false);
  return {std::move(spec), config.quant, config.lora, store};
}

std::string norm_name(std::int64_t layer, const char* norm) {
  return "transformer.h." + std::to_string(layer) + "." + norm;
}

at::Tensor by_sequence(const at::Tensor& rows, std::int64_t sequences) { return rows.unflatten(0, {sequences, -1}); }

// [M, D] each -> [M, 2 D]; a view where they are columns of one matrix, one behind the other.
at::Tensor side_by_side(const at::Tensor& a, const at::Tensor& b) {
  const bool neighbours = a.is_alias_of(b) && b.storage_offset() == a.storage_offset() + a.size(1) &&
                          a.stride(0) == b.stride(0) && a.stride(0) >= 2 * a.size(1) && a.stride(1) == 1;
  return neighbours ? a.as_strided({a.size(0), 2 * a.size(1)}, {a.stride(0), 1}) : at::cat({a, b}, /*dim=*/1);
}

using Body = std::function<ResidualPair(const ResidualPair&)>;

// A pair without its delta is one tensor.
std::vector<at::Tensor> tensors_of(const ResidualPair& pair) {
  if (!pair.delta.defined()) return {pair.residual};
  return {pair.residual, pair.delta};
}

ResidualPair pair_of(const std::vector<at::Tensor>& tensors) {
  return {.residual = tensors[0], .delta = tensors.size() > 1 ? tensors[1] : at::Tensor()};
}

ResidualPair recomputed_pair(const Body& body, const ResidualPair& x, const std::vector<at::Tensor>& parameters) {
  const Segment segment = [body](const std::vector<at::Tensor>& in) { return tensors_of(body(pair_of(in))); };
  return pair_of(recomputed(segment, tensors_of(x), parameters));
}

}  // namespace

Block::Block(std::int64_t layer, const BlockConfig& config, ParameterStore& store)
    : layer_(layer),
      config_(config),
      kv_("attention", "kv", {.granularity = Granularity::kToken}),
      ln_1_(norm_name(layer, "ln_1"), config.model.n_embd, config.model.norm_slots, config.quant, store),
      c_attn_(add_linear(layer, 0, config.model.n_embd, 3 * config.model.n_embd, config, store)),
      attn_proj_(add_linear(layer, 1, config.model.n_embd, config.model.n_embd, config, store)),
      ln_2_(norm_name(layer, "ln_2"), config.model.n_embd, config.model.norm_slots, config.quant, store),
      c_fc_(add_linear(layer, 2, config.model.n_embd, 4 * config.model.n_embd, config, store)),
      mlp_proj_(add_linear(layer, 3, 4 * config.model.n_embd, config.model.n_embd, config, store)) {}

bool Block::fuses(const ForwardContext& context) const {
  const auto all = linears();
  return config_.mode.is_cuda() &&
         std::all_of(all.begin(), all.end(), [&](const QuantLinear* linear) { return linear->can_fuse(context); });
}

ResidualPair Block::forward(const ResidualPair& x, const ForwardContext& context, std::int64_t sequences) const {
  Body body;
  if (fuses(context)) {
    body = [=, this, block = fused_block(context)](const ResidualPair& in) {
      return run_fused(block, in, context, sequences);
    };
  } else {
    body = [=, this](const ResidualPair& in) { return run_by_operators(in, context, sequences); };
  }
  return config_.recompute == Recompute::kBlock ? recomputed_pair(body, x, parameters(context)) : body(x);
}

FusedBlock Block::fused_block(const ForwardContext& context) const {
  const auto pass = [&](const QuantLinear& linear) { return linear.pass(context, config_.mode.dtype); };
  return {.ln_1 = ln_1_.fused(weight_bits(c_attn_, context)),
          .c_attn = pass(c_attn_),
          .attn_proj = pass(attn_proj_),
          .ln_2 = ln_2_.fused(weight_bits(c_fc_, context)),
          .c_fc = pass(c_fc_),
          .mlp_proj = pass(mlp_proj_),
          .dropout = {.p = context.training ? config_.model.resid_dropout : 0.0,
                      .attn_out = dropout_key(context, kAttentionOutSlot),
                      .mlp_out = dropout_key(context, kMlpOutSlot)}};
}

ResidualPair Block::run_fused(const FusedBlock& block, const ResidualPair& x, const ForwardContext& context,
                              std::int64_t sequences) const {
  const FirstHalf first = fused_first_half(x, block.ln_1, block.c_attn);
  return fused_second_half(first.residual, attend(first.q, first.k, first.v, context, sequences), block,
                           /*keep_gelu=*/config_.recompute != Recompute::kSelective);
}

ResidualPair Block::run_by_operators(const ResidualPair& in, const ForwardContext& context,
                                     std::int64_t sequences) const {
  const at::Tensor x = sum_of(in);
  const at::Tensor first =
      traced("ln_1", [&] { return ln_1_.forward({.residual = x, .delta = {}}, weight_bits(c_attn_, context)); });
  const auto parts =
      traced("attn.c_attn", [&] { return c_attn_.forward(first, context); }).split(config_.model.n_embd, /*dim=*/1);
  at::Tensor attended = attend(parts[0], parts[1], parts[2], context, sequences);
  attended = traced("attn.c_proj", [&] { return attn_proj_.forward(attended, context); });
  const at::Tensor y = x + residual_dropout(attended, context, kAttentionOutSlot);
  const at::Tensor second =
      traced("ln_2", [&] { return ln_2_.forward({.residual = y, .delta = {}}, weight_bits(c_fc_, context)); });
  at::Tensor wide = traced("mlp.c_fc", [&] { return c_fc_.forward(second, context); });
  wide = traced("gelu", [&] { return at::gelu(wide, "tanh"); });
  const at::Tensor added = traced("mlp.c_proj", [&] { return mlp_proj_.forward(wide, context); });
  return {.residual = y + residual_dropout(added, context, kMlpOutSlot), .delta = {}};
}

at::Tensor Block::attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const ForwardContext& context,
                         std::int64_t sequences) const {
  const TraceRange range("attention");
  if (context.kv_cache != nullptr) return attend_with_cache(q, k, v, context, sequences);
  const AttentionOptions options{.heads = config_.model.n_head,
                                 .dropout = context.training ? config_.model.attn_dropout : 0.0,
                                 .key = dropout_key(context, kAttentionSlot),
                                 .repeatable = config_.mode.repeatable_attention};
  return causal_attention(by_sequence(q, sequences), quantized_kv(by_sequence(k, sequences), context),
                          quantized_kv(by_sequence(v, sequences), context), options)
      .view(q.sizes());
}

at::Tensor Block::attend_with_cache(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const ForwardContext& context, std::int64_t sequences) const {
  KvCache& cache = *context.kv_cache;
  const BitWidth width = context.precision->kv(layer_);
  const std::int64_t features = config_.model.n_embd;
  at::Tensor both = side_by_side(k, v);  // [M, 2 D]: keys and values have scales of their own, as rows
  if (!cache.in_prompts() && !width.is_full() && width.bits() <= kMostCodeBits) {
    cache.append_codes(layer_, both, width);
    return cache.attend(layer_, q);
  }
  if (cache.in_prompts() || !width.is_full()) both = both.contiguous();
  if (width.is_full() || width.bits() > kMostCodeBits) {
    if (!width.is_full()) both = kv_.fake_quant(both.view({-1, features}), width).view(both.sizes());
    cache.append(layer_, both, /*scales=*/{});
  } else {
    const Coded coded = kv_.encode(both.view({-1, features}), width, /*with_transposed=*/false);
    cache.append(layer_, coded.codes.view(both.sizes()), coded.scales.view({-1, 2}));
    both = decode(coded.codes, coded.scales, q.scalar_type()).view(both.sizes());
  }
  if (!cache.in_prompts()) return cache.attend(layer_, q);
  const AttentionOptions options{.heads = config_.model.n_head, .repeatable = config_.mode.repeatable_attention};
  return causal_attention(by_sequence(q, sequences), by_sequence(both.narrow(1, 0, features), sequences),
                          by_sequence(both.narrow(1, features, features), sequences), options)
      .view(q.sizes());
}

at::Tensor Block::quantized_kv(const at::Tensor& x_btd, const ForwardContext& context) const {
  const BitWidth width = context.precision->kv(layer_);
  if (width.is_full() || context.calibrating()) return x_btd;
  const at::Tensor x = x_btd.detach().contiguous();
  if (width.bits() > kMostCodeBits) return straight_through(x_btd, kv_.fake_quant(x, width));
  const Coded coded = kv_.encode(x, width, /*with_transposed=*/false);
  return straight_through(x_btd, decode(coded.codes, coded.scales, x_btd.scalar_type()).view(x_btd.sizes()));
}

at::Tensor Block::residual_dropout(const at::Tensor& x, const ForwardContext& context, DropoutSlot slot) const {
  const double p = config_.model.resid_dropout;
  return context.training && p > 0.0 ? counter_dropout(x, p, dropout_key(context, slot)) : x;
}

kernels::RngKey Block::dropout_key(const ForwardContext& context, DropoutSlot slot) const {
  return context.rng(RngPurpose::kDropout, (static_cast<std::uint64_t>(layer_) + 1) * kSlots + slot);
}

int Block::weight_bits(const QuantLinear& linear, const ForwardContext& context) {
  return context.precision->at(linear.spec().index).weight.bits();
}

std::vector<at::Tensor> Block::parameters(const ForwardContext& context) const {
  std::vector<at::Tensor> all;
  for (const FusedNorm& norm : {ln_1_.fused(weight_bits(c_attn_, context)), ln_2_.fused(weight_bits(c_fc_, context))})
    all.push_back(norm.weight), all.push_back(norm.bias);
  for (const QuantLinear* linear : linears()) {
    const std::vector<at::Tensor> own = linear->parameters(context.precision->at(linear->spec().index));
    all.insert(all.end(), own.begin(), own.end());
  }
  return all;
}

}  // namespace qat
