#include "src/model/gpt2.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "kernels/common/error.h"
#include "kernels/common/trace_range.h"
#include "src/loss/lm_head_loss.h"
#include "src/model/dropout.h"
#include "src/model/token_embedding.h"
#include "src/quant/gemm_path.h"

// Shape suffixes: B sequences, T tokens, D width, V vocabulary.

namespace qat {
namespace {

constexpr std::int64_t kPlainHeadKey = -1;  // of the unquantized output projection in a WeightCache
constexpr std::int64_t kCodedHeadKey = -2;  // of the one that takes chunks of tokens

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
           const ComputeMode& mode, Recompute recompute, const StageRange& stage)
    : config_(config),
      lora_(lora),
      quant_(&quant),
      mode_(mode),
      stage_(stage),
      linear_names_(quantized_layer_names(config)) {
  if (stage_.last < 0) stage_.last = config_.n_layer;
  QAT_CHECK(0 <= stage_.first && stage_.first <= stage_.last && stage_.last <= config_.n_layer,
            "a stage's blocks are some of the model's, in order");
  const bool train_base = !config_.freeze_base;
  const bool tied = config_.tie_lm_head && !config_.answers_questions();
  const GroupKind table = tied ? GroupKind::kTied : GroupKind::kBase;
  if (stage_.embeds || (stage_.heads && tied))
    wte_ = store_.add("transformer.wte.weight", {config_.vocab_size, config_.n_embd}, table, train_base,
                      /*decay=*/true);
  if (stage_.embeds)
    wpe_ = store_.add("transformer.wpe.weight", {config_.n_positions, config_.n_embd}, GroupKind::kBase, train_base,
                      /*decay=*/true);
  const BlockConfig shared{.model = config_, .lora = lora_, .quant = quant, .mode = mode_, .recompute = recompute};
  for (std::int64_t layer = stage_.first; layer < stage_.last; ++layer) {
    blocks_.push_back(std::make_unique<Block>(layer, shared, store_));
    for (QuantLinear* linear : blocks_.back()->linears()) linears_.push_back(linear);
  }
  if (stage_.heads) {
    ln_f_.emplace("transformer.ln_f", config_.n_embd, config_.norm_slots, quant, store_);
    config_.answers_questions() ? add_answer_head() : add_head();
  }
  store_.allocate(pad_to, mode_.device);
}

void Gpt2::add_head() {
  head_ = config_.tie_lm_head ? wte_
                              : store_.add("lm_head.weight", {config_.vocab_size, config_.n_embd}, GroupKind::kBase,
                                           !config_.freeze_base, true);
  if (!config_.quantize_lm_head) return;
  const std::string& name = linear_names_.back();
  quantized_head_.emplace(LinearSpec{.name = name,
                                     .parameter_prefix = name,
                                     .index = kLinearsPerBlock * config_.n_layer,
                                     .in_features = config_.n_embd,
                                     .out_features = config_.vocab_size,
                                     .weight = head_,
                                     .shares_weight = config_.tie_lm_head && stage_.embeds},
                          *quant_, lora_, store_);
  linears_.push_back(&*quantized_head_);
}

void Gpt2::init_random(std::uint64_t seed) {
  const auto residual = static_cast<float>(0.02 / std::sqrt(2.0 * static_cast<double>(config_.n_layer)));
  for (int id = 0; id < store_.count(); ++id) {
    const ParameterInfo& info = store_.info(id);
    std::vector<float> values(static_cast<std::size_t>(info.elems));
    const kernels::RngKey key = rng_key(seed, RngPurpose::kInit, 0, 0, name_slot(info.name));
    const bool is_norm = info.name.find(".ln_") != std::string::npos;
    if (ends_with(info.name, ".bias") || info.name.find(".lora_B.") != std::string::npos) {
      std::fill(values.begin(), values.end(), 0.0F);
    } else if (is_norm) {
      std::fill(values.begin(), values.end(), 1.0F);
    } else if (info.name.find(".lora_A.") != std::string::npos) {
      const auto bound = static_cast<float>(1.0 / std::sqrt(static_cast<double>(info.shape[1])));
      fill_uniform(key, -bound, bound, values);
    } else {
      fill_normal(key, ends_with(info.name, ".c_proj.weight") ? residual : 0.02F, values);
    }
    store_.set_values(id, values);
  }
}

at::Tensor Gpt2::embed(const at::Tensor& tokens, const ForwardContext& context) const {
  const at::Tensor& wte = store_.tensor(wte_);
  const at::Tensor& wpe = store_.tensor(wpe_);
  const at::Tensor x = mode_.is_cuda()
                           ? token_embedding(tokens, {wte, wte_}, {wpe, wpe_}, mode_.dtype, context.gradient_sink)
                           : at::embedding(wte, tokens) + wpe.narrow(0, 0, tokens.size(1));
  const double p = config_.embd_dropout;
  return context.training && p > 0.0 ? counter_dropout(x, p, context.rng(RngPurpose::kDropout, kEmbeddingSlot)) : x;
}

std::vector<bool> Gpt2::groups_used(const PrecisionMap& precision) const {
  std::vector<bool> used;
  for (const FlatGroup& group : store_.groups())
    used.push_back(group.key.kind != GroupKind::kWidth || precision.uses_weight_bits(group.key.bits));
  return used;
}

std::int64_t Gpt2::fused_blocks(const ForwardContext& context) const {
  return std::count_if(blocks_.begin(), blocks_.end(), [&](const auto& block) { return block->fuses(context); });
}

QuantLinear* Gpt2::find_linear(std::int64_t index) const {
  const auto found = std::find_if(linears_.begin(), linears_.end(),
                                  [&](const QuantLinear* linear) { return linear->spec().index == index; });
  QAT_CHECK(found != linears_.end(), "layer " + std::to_string(index) + " belongs to another stage");
  return *found;
}

at::Tensor Gpt2::states_after_blocks(const at::Tensor& states, const ForwardContext& context) const {
  // On a GPU one pass goes at a time, and launches are dear.
  if (mode_.is_cuda() && context.weight_cache != nullptr && !context.calibrating()) {
    const auto in_blocks = static_cast<std::ptrdiff_t>(kLinearsPerBlock * (stage_.last - stage_.first));
    const std::vector<const QuantLinear*> all(linears_.begin(), linears_.begin() + in_blocks);
    QuantLinear::prepare_all(all, context, mode_.dtype);
  }
  ResidualPair x{.residual = states.reshape({-1, config_.n_embd}), .delta = {}};
  for (const auto& block : blocks_) x = block->forward(x, context, states.size(0));
  return (ln_f_ ? ln_f_->forward(x, context.precision->nominal().weight.bits()) : sum_of(x)).view(states.sizes());
}

StagePass Gpt2::forward(const ModelInput& input, const ForwardContext& context) const {
  QAT_CHECK(context.precision != nullptr && context.precision->size() == config_.linears(),
            "a pass needs the width of every linear layer");
  QAT_CHECK(input.tokens.defined() == stage_.embeds, "tokens enter the stage that embeds, states any other");
  if (stage_.embeds) {
    QAT_CHECK(input.tokens.size(1) <= config_.n_positions, "sequence longer than n_positions");
    return {.states = {}, .output = states_after_blocks(embed(input.tokens, context), context)};
  }
  const at::Tensor states = input.states.detach().requires_grad_(at::GradMode::is_enabled());
  return {.states = states, .output = states_after_blocks(states, context)};
}

at::Tensor Gpt2::hidden(const at::Tensor& tokens, const ForwardContext& context) const {
  return forward({.tokens = tokens}, context).output;
}

bool Gpt2::head_on_codes(const PrecisionMap& precision) const {
  if (!quantized_head_) return false;
  const Device device = mode_.is_cuda() ? Device::kCuda : Device::kCpu;
  const bool adapter = lora_.rank == 0 || lora_.quantize;
  return choose_gemm_path(*quant_, precision.at(quantized_head_->spec().index), device) == GemmPath::kCodes &&
         scales_by_row(*quant_) && adapter;
}

std::optional<LmHead> Gpt2::chunked_head(const ForwardContext& context) const {
  const bool plain = !quantized_head_ || context.precision->at(quantized_head_->spec().index).is_full();
  if (!plain && !head_on_codes(*context.precision)) return std::nullopt;
  LmHead head{.linear = {}, .activation = BitWidth::full(), .weight = {store_.tensor(head_), head_}};
  WeightCache::Key key{.linear = kPlainHeadKey};
  std::function<PreparedLinear()> prepare = [&] { return plain_head(head.weight.tensor, mode_.dtype); };
  if (!plain) {
    const QuantLinear& linear = *quantized_head_;
    const LayerPrecision& precision = context.precision->at(linear.spec().index);
    head.activation = precision.activation;
    if (const AdapterSlot* slot = linear.adapter(precision.weight.bits())) {
      head.lora_a = {store_.tensor(slot->a), slot->a};
      head.lora_b = {store_.tensor(slot->b), slot->b};
    }
    const bool backward = at::GradMode::is_enabled();
    key = {.linear = kCodedHeadKey, .path = GemmPath::kCodes, .bits = precision.weight.bits(), .backward = backward};
    prepare = [&head, &precision, backward, this] {
      return coded_head({head.weight.tensor, head.lora_a.tensor, head.lora_b.tensor, lora_.alpha}, precision.weight,
                        mode_.dtype, backward);
    };
  }
  const auto shared = [&] { return std::make_shared<const PreparedLinear>(prepare()); };
  head.linear = context.weight_cache == nullptr ? shared() : context.weight_cache->prepared(key, shared);
  head.weight_has_other_uses = config_.tie_lm_head && stage_.embeds;
  if (at::GradMode::is_enabled()) head.sink = context.gradient_sink;
  return head;
}

at::Tensor Gpt2::logits(const at::Tensor& hidden, const ForwardContext& context) const {
  QAT_CHECK(head_ >= 0, "the model has an output projection");
  return quantized_head_ ? quantized_head_->forward(hidden, context)
                         : at::linear(hidden, store_.tensor(head_).to(hidden.scalar_type()));
}

StageGradients Gpt2::backward(const StagePass& pass, const at::Tensor& d_output) const {
  const TraceRange range("backward");
  std::vector<at::Tensor> wanted = store_.trainable_tensors();
  if (pass.states.defined()) wanted.push_back(pass.states);
  // Not backward(): that adds into the parameters' own gradients, which passes at the same time would share.
  StageGradients out{.parameters = torch::autograd::grad({pass.output}, wanted, {d_output}, /*retain_graph=*/false,
                                                         /*create_graph=*/false, /*allow_unused=*/true)};
  if (pass.states.defined()) {
    out.states = out.parameters.back();
    out.parameters.pop_back();
  }
  return out;
}

// All logits at once, through autograd.
Gpt2::HeadResult Gpt2::head_by_operators(const at::Tensor& rows, const at::Tensor& targets,
                                         const ForwardContext& context, const LossScale& scale) const {
  const at::Tensor x = rows.detach().requires_grad_(true);
  const at::Tensor loss = cross_entropy(logits(x, context).to(at::kFloat), targets, scale);
  std::vector<at::Tensor> wanted = {x};
  std::vector<int> ids;
  const int bits = context.precision->at(quantized_head_->spec().index).weight.bits();
  const AdapterSlot* slot = quantized_head_->adapter(bits);
  for (const int id : {head_, slot != nullptr ? slot->a : -1, slot != nullptr ? slot->b : -1})
    if (id >= 0 && store_.info(id).trainable) wanted.push_back(store_.tensor(id)), ids.push_back(id);
  const auto found = torch::autograd::grad({loss}, wanted, {at::full_like(loss, scale.weight)}, /*retain_graph=*/false,
                                           /*create_graph=*/false,
                                           /*allow_unused=*/true);
  HeadResult out{.loss = loss.detach(), .d_output = found[0]};
  for (std::size_t i = 0; i < ids.size(); ++i) out.parameters.emplace_back(ids[i], found[i + 1]);
  return out;
}

Gpt2::HeadResult Gpt2::head(const at::Tensor& output, const at::Tensor& targets, const ForwardContext& context,
                            const LossScale& scale) const {
  const TraceRange range("head");
  if (config_.answers_questions()) return answer_head(output, targets, context, scale);
  const at::Tensor rows = output.detach().view({-1, config_.n_embd}), flat_targets = targets.reshape({-1});
  const std::optional<LmHead> chunked = chunked_head(context);
  if (!chunked) return head_by_operators(rows, flat_targets, context, scale);
  LossOfHidden found = lm_head_loss(rows, *chunked, flat_targets, scale);
  return {.loss = found.loss,
          .d_output = found.hidden,
          .parameters = {{head_, found.gradients.weight},
                         {chunked->lora_a.id, found.gradients.lora_a},
                         {chunked->lora_b.id, found.gradients.lora_b}}};
}

LossAndGradients Gpt2::loss_and_gradients(const ModelInput& input, const at::Tensor& targets,
                                          const ForwardContext& context, const LossScale& scale) const {
  QAT_CHECK(stage_.heads, "the last stage has the loss");
  const at::AutoGradMode with_gradients(true);
  const StagePass pass = [&] {
    const TraceRange range("forward");
    return forward(input, context);
  }();
  HeadResult last = head(pass.output, targets, context, scale);
  LossAndGradients out{.loss = last.loss, .gradients = backward(pass, last.d_output.view(pass.output.sizes()))};
  for (auto& [id, gradient] : last.parameters) {
    if (!gradient.defined()) continue;
    at::Tensor& found = out.gradients.parameters.at(static_cast<std::size_t>(store_.info(id).trainable_index));
    found = found.defined() ? gradient.add_(found) : gradient;  // a tied table has one from the embeddings
  }
  return out;
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
  const LinearSpec& spec = this->linear(linear).spec();
  return spec.in_features * spec.out_features;
}

}  // namespace qat
