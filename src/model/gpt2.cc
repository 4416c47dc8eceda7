#include "src/model/gpt2.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "kernels/common/error.h"
#include "src/loss/lm_head_loss.h"
#include "src/model/dropout.h"
#include "src/model/token_embedding.h"
#include "src/quant/gemm_path.h"
#include "src/quant/torch_view.h"

// Shape suffixes: B sequences, T tokens, D width, H heads, V vocabulary.

namespace qat {
namespace {

constexpr double kNormEps = 1e-5;
constexpr std::int64_t kHeadKey = -1;  // of the output projection in a WeightCache: no linear layer's index

// Places that drop activations, per block and one for the embeddings: each has a stream of its own.
enum DropoutSlot : std::uint64_t { kEmbedding = 0, kAttention = 1, kAttentionOut = 2, kMlpOut = 3, kSlots = 4 };

// The embeddings have the slot that no block uses.
std::uint64_t first_slot(std::int64_t layer) { return (static_cast<std::uint64_t>(layer) + 1) * kSlots; }

// FNV-1a: a parameter's initial values depend on its name alone, so that adding a layer changes no other.
std::uint64_t name_slot(const std::string& name) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return hash;
}

bool ends_with(const std::string& text, const std::string& suffix) {
  return text.size() >= suffix.size() && text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

}  // namespace

Gpt2::Gpt2(const Gpt2Config& config, const LoraConfig& lora, const QuantConfig& quant, std::int64_t pad_to,
           const ComputeMode& mode, Recompute recompute)
    : config_(config),
      lora_(lora),
      quant_(&quant),
      mode_(mode),
      recompute_(recompute),
      kv_("attention", "kv", {.granularity = Granularity::kToken}),
      linear_names_(quantized_layer_names(config)) {
  const std::int64_t d = config_.n_embd;
  const bool train_base = !config_.freeze_base;
  linears_.reserve(static_cast<std::size_t>(config_.linears()));
  const ParameterGroup table = config_.tie_lm_head ? ParameterGroup::kTied : ParameterGroup::kBase;
  wte_ = store_.add("transformer.wte.weight", {config_.vocab_size, d}, table, train_base, true);
  wpe_ = store_.add("transformer.wpe.weight", {config_.n_positions, d}, ParameterGroup::kBase, train_base, true);
  for (std::int64_t layer = 0; layer < config_.n_layer; ++layer) {
    const std::string h = "h." + std::to_string(layer);
    Block block;
    block.ln_1 = add_norm(h + ".ln_1");
    block.c_attn = add_linear(d, 3 * d, quant, lora);
    block.attn_proj = add_linear(d, d, quant, lora);
    block.ln_2 = add_norm(h + ".ln_2");
    block.c_fc = add_linear(d, 4 * d, quant, lora);
    block.mlp_proj = add_linear(4 * d, d, quant, lora);
    blocks_.push_back(block);
  }
  ln_f_ = add_norm("ln_f");
  add_head(quant, lora);
  store_.allocate(pad_to, mode_.device);
}

Gpt2::Norm Gpt2::add_norm(const std::string& name) {
  const std::string full = "transformer." + name;
  return {store_.add(full + ".weight", {config_.n_embd}, ParameterGroup::kShared, /*trainable=*/true, /*decay=*/false),
          store_.add(full + ".bias", {config_.n_embd}, ParameterGroup::kShared, /*trainable=*/true, /*decay=*/false)};
}

std::size_t Gpt2::add_linear(std::int64_t in, std::int64_t out, const QuantConfig& quant, const LoraConfig& lora) {
  const std::string& name = linear_names_.at(linears_.size());
  const bool train_base = !config_.freeze_base;
  LinearSpec spec{.name = name,
                  .parameter_prefix = "transformer." + name,
                  .index = static_cast<std::int64_t>(linears_.size()),
                  .in_features = in,
                  .out_features = out};
  spec.weight = store_.add(spec.parameter_prefix + ".weight", {out, in}, ParameterGroup::kBase, train_base, true);
  spec.bias = store_.add(spec.parameter_prefix + ".bias", {out}, ParameterGroup::kBase, train_base, /*decay=*/false);
  linears_.emplace_back(std::move(spec), quant, lora, store_);
  return linears_.size() - 1;
}

void Gpt2::add_head(const QuantConfig& quant, const LoraConfig& lora) {
  head_ = config_.tie_lm_head ? wte_
                              : store_.add("lm_head.weight", {config_.vocab_size, config_.n_embd},
                                           ParameterGroup::kBase, !config_.freeze_base, true);
  if (!config_.quantize_lm_head) return;
  const std::string& name = linear_names_.back();
  linears_.emplace_back(LinearSpec{.name = name,
                                   .parameter_prefix = name,
                                   .index = static_cast<std::int64_t>(linears_.size()),
                                   .in_features = config_.n_embd,
                                   .out_features = config_.vocab_size,
                                   .weight = head_},
                        quant, lora, store_);
}

void Gpt2::init_random(std::uint64_t seed) {
  const auto residual = static_cast<float>(0.02 / std::sqrt(2.0 * static_cast<double>(config_.n_layer)));
  for (int id = 0; id < store_.count(); ++id) {
    const ParameterInfo& info = store_.info(id);
    std::vector<float> values(static_cast<std::size_t>(info.elems));
    const kernels::RngKey key = rng_key(seed, RngPurpose::kInit, 0, 0, name_slot(info.name));
    const bool is_norm = info.name.find(".ln_") != std::string::npos;
    if (ends_with(info.name, ".bias") || ends_with(info.name, ".lora_B.weight")) {
      std::fill(values.begin(), values.end(), 0.0F);
    } else if (is_norm) {
      std::fill(values.begin(), values.end(), 1.0F);
    } else if (ends_with(info.name, ".lora_A.weight")) {
      const auto bound = static_cast<float>(1.0 / std::sqrt(static_cast<double>(info.shape[1])));
      fill_uniform(key, -bound, bound, values);
    } else {
      fill_normal(key, ends_with(info.name, ".c_proj.weight") ? residual : 0.02F, values);
    }
    store_.set_values(id, values);
  }
}

FusedNorm Gpt2::fused_norm_of(const Norm& norm) const {
  return {.weight = store_.tensor(norm.weight), .bias = store_.tensor(norm.bias)};
}

at::Tensor Gpt2::norm(const at::Tensor& x, const Norm& norm) const {
  if (mode_.is_cuda()) {
    const at::Tensor rows = x.reshape({-1, config_.n_embd});
    return fused_norm({.residual = rows, .delta = {}}, fused_norm_of(norm)).view(x.sizes());
  }
  return at::layer_norm(x, {config_.n_embd}, store_.tensor(norm.weight), store_.tensor(norm.bias), kNormEps);
}

at::Tensor Gpt2::dropout(const at::Tensor& x, double p, const ForwardContext& context, std::uint64_t slot) const {
  return context.training && p > 0.0 ? counter_dropout(x, p, context.rng(RngPurpose::kDropout, slot)) : x;
}

at::Tensor Gpt2::quantized_kv(const at::Tensor& x_btd, const ForwardContext& context, const Block& block) const {
  const BitWidth width(quant_->kv_bits);
  // A block that is unquantized in this pass is so throughout: it is the reference.
  if (width.is_full() || context.calibrating() || context.precision->at(linears_[block.c_attn].spec().index).is_full())
    return x_btd;
  const Coded coded = kv_.encode(x_btd.detach().contiguous(), width, /*with_transposed=*/false);
  return straight_through(x_btd, decode(coded.codes, coded.scales, x_btd.scalar_type()).view(x_btd.sizes()),
                          /*grad_clip=*/0.0);
}

at::Tensor Gpt2::attend(const at::Tensor& q_btd, const at::Tensor& k_btd, const at::Tensor& v_btd,
                        const ForwardContext& context, std::int64_t layer) const {
  const std::int64_t batch = q_btd.size(0), tokens = q_btd.size(1), heads = config_.n_head;
  const auto by_head = [&](const at::Tensor& t) { return t.view({batch, tokens, heads, -1}).transpose(1, 2); };
  const Block& block = blocks_[static_cast<std::size_t>(layer)];
  const at::Tensor q = by_head(q_btd), k = by_head(quantized_kv(k_btd, context, block)),
                   v = by_head(quantized_kv(v_btd, context, block));  // [B, H, T, D/H]
  const std::int64_t head_dim = q.size(-1);
  at::Tensor out;
  if (context.training && config_.attn_dropout > 0.0) {
    const double scale = 1.0 / std::sqrt(static_cast<double>(head_dim));
    const at::Tensor future = at::ones({tokens, tokens}, q.options().dtype(at::kBool)).triu(1);
    const at::Tensor scores = (at::matmul(q, k.transpose(-2, -1)) * scale).masked_fill(future, -INFINITY);
    const std::uint64_t slot = first_slot(layer) + kAttention;
    out = at::matmul(dropout(at::softmax(scores, -1), config_.attn_dropout, context, slot), v);
  } else if (mode_.is_cuda() && mode_.dtype == at::kBFloat16 && !mode_.repeatable_attention && head_dim % 8 == 0 &&
             head_dim <= 128) {
    // LibTorch's own choice prefers flash attention, which is 1.5 times slower here.
    out = std::get<0>(at::_scaled_dot_product_cudnn_attention(q, k, v, /*attn_bias=*/{}, at::GradMode::is_enabled(),
                                                              /*dropout_p=*/0.0, /*is_causal=*/true));
  } else {
    out = at::scaled_dot_product_attention(q, k, v, /*attn_mask=*/{}, /*dropout_p=*/0.0, /*is_causal=*/true);
  }
  return out.transpose(1, 2).reshape({batch, tokens, config_.n_embd});
}

at::Tensor Gpt2::attention(const Block& block, const at::Tensor& x_btd, const ForwardContext& context,
                           std::int64_t layer) const {
  const at::Tensor qkv = linears_[block.c_attn].forward(x_btd, context);
  const auto parts = qkv.split(config_.n_embd, /*dim=*/2);
  return linears_[block.attn_proj].forward(attend(parts[0], parts[1], parts[2], context, layer), context);
}

at::Tensor Gpt2::mlp(const Block& block, const at::Tensor& x, const ForwardContext& context) const {
  return linears_[block.mlp_proj].forward(at::gelu(linears_[block.c_fc].forward(x, context), "tanh"), context);
}

at::Tensor Gpt2::embed(const at::Tensor& tokens, const at::Tensor& add_gradient_to) const {
  const std::int64_t length = tokens.size(1);
  if (mode_.is_cuda())
    return token_embedding(tokens, store_.tensor(wte_), store_.tensor(wpe_), mode_.dtype, add_gradient_to);
  return at::embedding(store_.tensor(wte_), tokens) + store_.tensor(wpe_).narrow(0, 0, length);
}

bool Gpt2::fuses(const ForwardContext& context) const {
  return mode_.is_cuda() &&
         std::all_of(linears_.begin(),
                     linears_.begin() + static_cast<std::ptrdiff_t>(kLinearsPerBlock * config_.n_layer),
                     [&](const QuantLinear& linear) { return linear.can_fuse(context); });
}

FusedBlock Gpt2::fused_block_of(const ForwardContext& context, std::int64_t layer) const {
  const Block& block = blocks_[static_cast<std::size_t>(layer)];
  const auto draws = [&](std::uint64_t slot) { return context.rng(RngPurpose::kDropout, first_slot(layer) + slot); };
  const auto linear = [&](std::size_t index) { return linears_[index].fused(context, mode_.dtype); };
  return {.ln_1 = fused_norm_of(block.ln_1),
          .c_attn = linear(block.c_attn),
          .attn_proj = linear(block.attn_proj),
          .ln_2 = fused_norm_of(block.ln_2),
          .c_fc = linear(block.c_fc),
          .mlp_proj = linear(block.mlp_proj),
          .dropout = {.p = context.training ? config_.resid_dropout : 0.0,
                      .attn_out = draws(kAttentionOut),
                      .mlp_out = draws(kMlpOut)}};
}

ResidualPair Gpt2::fused_block(const FusedBlock& block, const ResidualPair& x, const ForwardContext& context,
                               std::int64_t layer, std::int64_t batch) const {
  const auto by_sequence = [&](const at::Tensor& t) { return t.unflatten(0, {batch, -1}); };
  const FirstHalf first = fused_first_half(x, block.ln_1, block.c_attn);
  const at::Tensor attended = attend(by_sequence(first.q), by_sequence(first.k), by_sequence(first.v), context, layer);
  return fused_second_half(first.residual, attended.view({-1, config_.n_embd}), block,
                           /*keep_gelu=*/recompute_ != Recompute::kSelective);
}

at::Tensor Gpt2::hidden_fused(const at::Tensor& x_btd, const ForwardContext& context, std::int64_t batch) const {
  const auto layers = static_cast<std::size_t>(kLinearsPerBlock * config_.n_layer);
  if (context.weight_cache != nullptr)
    QuantLinear::prepare_all(std::span(linears_).first(layers), context, mode_.dtype);
  ResidualPair x{.residual = x_btd.reshape({-1, config_.n_embd}), .delta = {}};
  for (std::int64_t layer = 0; layer < config_.n_layer; ++layer) {
    const FusedBlock block = fused_block_of(context, layer);
    if (recompute_ != Recompute::kBlock) {
      x = fused_block(block, x, context, layer, batch);
      continue;
    }
    const Segment segment = [=, this](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
      const ResidualPair pair{.residual = in[0], .delta = in.size() > 1 ? in[1] : at::Tensor()};
      const ResidualPair out = fused_block(block, pair, context, layer, batch);
      return {out.residual, out.delta};
    };
    std::vector<at::Tensor> inputs = {x.residual};
    if (x.delta.defined()) inputs.push_back(x.delta);
    const std::vector<at::Tensor> out = recomputed(segment, inputs, block.parameters());
    x = {.residual = out[0], .delta = out[1]};
  }
  return fused_norm(x, fused_norm_of(ln_f_)).view(x_btd.sizes());
}

std::vector<at::Tensor> Gpt2::parameters_of(const Block& block) const {
  std::vector<at::Tensor> all;
  const auto add = [&](std::initializer_list<int> ids) {
    for (const int id : ids)
      if (id >= 0) all.push_back(store_.tensor(id));
  };
  add({block.ln_1.weight, block.ln_1.bias, block.ln_2.weight, block.ln_2.bias});
  for (const std::size_t index : {block.c_attn, block.attn_proj, block.c_fc, block.mlp_proj}) {
    const QuantLinear& linear = linears_[index];
    add({linear.spec().weight, linear.spec().bias, linear.lora_a(), linear.lora_b()});
  }
  return all;
}

at::Tensor Gpt2::block_by_operators(const at::Tensor& x_btd, const ForwardContext& context, std::int64_t layer) const {
  const Block& block = blocks_[static_cast<std::size_t>(layer)];
  const double p = config_.resid_dropout;
  const at::Tensor attended = attention(block, norm(x_btd, block.ln_1), context, layer);
  const at::Tensor x = x_btd + dropout(attended, p, context, first_slot(layer) + kAttentionOut);
  const at::Tensor fed = mlp(block, norm(x, block.ln_2), context);
  return x + dropout(fed, p, context, first_slot(layer) + kMlpOut);
}

at::Tensor Gpt2::hidden_by_operators(const at::Tensor& embedded, const ForwardContext& context) const {
  at::Tensor x = embedded;
  for (std::int64_t layer = 0; layer < config_.n_layer; ++layer) {
    if (recompute_ != Recompute::kBlock) {
      x = block_by_operators(x, context, layer);
      continue;
    }
    const Segment segment = [=, this](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
      return {block_by_operators(in[0], context, layer)};
    };
    x = recomputed(segment, {x}, parameters_of(blocks_[static_cast<std::size_t>(layer)]))[0];
  }
  return norm(x, ln_f_);
}

at::Tensor Gpt2::hidden(const at::Tensor& tokens, const ForwardContext& context,
                        const at::Tensor& add_embedding_gradient_to) const {
  QAT_CHECK(context.precision != nullptr && context.precision->size() == static_cast<std::int64_t>(linears_.size()),
            "a pass needs the width of every linear layer");
  QAT_CHECK(tokens.size(1) <= config_.n_positions, "sequence longer than n_positions");
  const at::Tensor x = dropout(embed(tokens, add_embedding_gradient_to), config_.embd_dropout, context, kEmbedding);
  return fuses(context) ? hidden_fused(x, context, tokens.size(0)) : hidden_by_operators(x, context);
}

const at::Tensor& Gpt2::head_weight() const { return store_.tensor(head_); }

// The output projection in the activations' dtype, with rows of zeros up to what the matrix units like.
LmHead Gpt2::plain_head(const ForwardContext& context) const {
  const auto convert = [&] { return padded_head(head_weight(), mode_.dtype); };
  const WeightCache::Key key{.linear = kHeadKey, .role = 0, .bits = BitWidth::kFull, .transposed = false};
  return {.weight = head_weight(),
          .lora_a = {},
          .lora_b = {},
          .values = context.weight_cache == nullptr ? convert() : context.weight_cache->converted(key, convert),
          .codes = {}};
}

LmHead Gpt2::coded_head(const ForwardContext& context) const {
  const QuantLinear& linear = linears_.back();
  const LayerPrecision& precision = context.precision->at(linear.spec().index);
  WeightCache* cache = context.weight_cache;
  const WeightCache::Key key{.linear = kHeadKey, .role = 0, .bits = precision.weight.bits(), .transposed = false};
  const auto encode = [&] { return padded_head_codes(head_weight(), precision.weight); };
  HeadCodes codes{.weight = cache == nullptr ? encode() : cache->get(key, encode), .activation = precision.activation};
  LmHead head{.weight = head_weight()};
  if (at::GradMode::is_enabled()) {
    const auto convert = [&] { return decode(codes.weight.codes, codes.weight.scales, mode_.dtype); };
    head.values = cache == nullptr ? convert() : cache->converted(key, convert);
  }
  if (linear.lora_a() >= 0) {
    head.lora_a = store_.tensor(linear.lora_a()), head.lora_b = store_.tensor(linear.lora_b());
    codes.adapter = head_adapter(head.lora_a, head.lora_b, precision.weight,
                                 lora_.alpha / static_cast<double>(lora_.rank), codes.weight, mode_.dtype);
  }
  head.codes = std::move(codes);
  return head;
}

bool Gpt2::head_on_codes(const PrecisionMap& precision) const {
  if (!config_.quantize_lm_head) return false;
  const Device device = mode_.is_cuda() ? Device::kCuda : Device::kCpu;
  const bool adapter = lora_.rank == 0 || lora_.quantize;
  return choose_gemm_path(*quant_, precision.at(linears_.back().spec().index), device) == GemmPath::kCodes &&
         scales_by_row(*quant_) && adapter;
}

std::optional<LmHead> Gpt2::chunked_head(const ForwardContext& context) const {
  if (!config_.quantize_lm_head || context.precision->at(linears_.back().spec().index).is_full())
    return plain_head(context);
  return head_on_codes(*context.precision) ? std::optional<LmHead>(coded_head(context)) : std::nullopt;
}

at::Tensor Gpt2::logits(const at::Tensor& hidden, const ForwardContext& context) const {
  return config_.quantize_lm_head ? linears_.back().forward(hidden, context)
                                  : at::linear(hidden, head_weight().to(hidden.scalar_type()));
}

at::Tensor Gpt2::loss(const at::Tensor& tokens, const at::Tensor& targets, const ForwardContext& context) const {
  const at::Tensor flat_targets = targets.reshape({-1});
  std::optional<LmHead> head = chunked_head(context);
  if (!head) {
    const at::Tensor z = logits(hidden(tokens, context), context);
    return cross_entropy(z.reshape({-1, config_.vocab_size}).to(at::kFloat), flat_targets);
  }
  // Backward comes to the head first, so that of a table with two uses the other can add its gradient in place.
  if (mode_.is_cuda() && context.gradient_sink != nullptr && at::GradMode::is_enabled())
    head->weight_place = context.gradient_sink->open(head_);
  const at::Tensor x = hidden(tokens, context, head_ == wte_ ? head->weight_place : at::Tensor());
  return lm_head_cross_entropy(x.reshape({-1, config_.n_embd}), *head, flat_targets);
}

at::Tensor Gpt2::token_nll(const at::Tensor& tokens, const at::Tensor& targets, const ForwardContext& context) const {
  const at::NoGradGuard no_grad;
  const at::Tensor x = hidden(tokens, context);
  const at::Tensor flat_targets = targets.reshape({-1});
  at::Tensor nll;
  if (const std::optional<LmHead> head = chunked_head(context)) {
    nll = lm_head_token_nll(x.reshape({-1, config_.n_embd}), *head, flat_targets);
  } else {
    const at::Tensor all = logits(x, context).reshape({-1, config_.vocab_size}).to(at::kFloat);
    nll = at::nll_loss(at::log_softmax(all, 1), flat_targets, /*weight=*/{}, at::Reduction::None);
  }
  return nll.view(tokens.sizes());
}

std::int64_t Gpt2::macs_per_token(std::int64_t linear) const {
  const LinearSpec& spec = linears_.at(static_cast<std::size_t>(linear)).spec();
  return spec.in_features * spec.out_features;
}

}  // namespace qat
