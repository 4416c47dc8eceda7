#include "src/model/gpt2.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "kernels/common/error.h"
#include "kernels/common/trace_range.h"
#include "src/model/dropout.h"
#include "src/model/kv_cache.h"
#include "src/model/token_embedding.h"

// Shape suffixes: B sequences, T tokens, D width, V vocabulary.

namespace qat {
namespace {

bool ends_with(const std::string& text, const std::string& suffix) {
  return text.size() >= suffix.size() && text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

}  // namespace

Gpt2::Gpt2(const Gpt2Config& config, const LoraConfig& lora, const QuantConfig& quant, std::int64_t pad_to,
           const ComputeMode& mode, Recompute recompute, const StageRange& stage, const RankOf& me)
    : config_(config),
      lora_(lora),
      quant_(&quant),
      mode_(mode),
      stage_(stage),
      linear_names_(quantized_layer_names(config)) {
  if (stage_.chunks.empty()) stage_.chunks = {{.first = 0, .last = config_.n_layer}};
  std::int64_t end = 0;
  for (const BlockRange& chunk : stage_.chunks) {
    QAT_CHECK(end <= chunk.first && chunk.first <= chunk.last && chunk.last <= config_.n_layer,
              "a stage's blocks are some of the model's, in order");
    end = chunk.last;
  }
  const bool train_base = !config_.freeze_base;
  const bool tied = config_.tie_lm_head && !config_.answers_questions();
  const GroupKind table = tied ? GroupKind::kTied : GroupKind::kBase;
  store_.begin_chunk(stage_.embeds ? 0 : chunks() - 1);
  if (stage_.embeds || (stage_.heads && tied))
    wte_ = store_.add("transformer.wte.weight", {config_.vocab_size, config_.n_embd}, table,
                      train_base && !has_copy_of_table(), /*decay=*/true, /*copy=*/has_copy_of_table());
  if (stage_.embeds)
    wpe_ = store_.add("transformer.wpe.weight", {config_.n_positions, config_.n_embd}, GroupKind::kBase, train_base,
                      /*decay=*/true);
  const BlockConfig shared{.model = config_, .lora = lora_, .quant = quant, .mode = mode_, .recompute = recompute};
  for (int chunk = 0; chunk < chunks(); ++chunk) {
    store_.begin_chunk(chunk);
    const BlockRange& range = stage_.chunks[static_cast<std::size_t>(chunk)];
    for (std::int64_t layer = range.first; layer < range.last; ++layer) {
      blocks_.push_back(std::make_unique<Block>(layer, shared, store_));
      for (QuantLinear* linear : blocks_.back()->linears()) linears_.push_back(linear);
    }
  }
  if (stage_.heads) {
    ln_f_.emplace("transformer.ln_f", config_.n_embd, config_.norm_slots, quant, store_);
    config_.answers_questions() ? add_answer_head() : add_head();
  }
  store_.shard(me);
  store_.allocate(pad_to, stage_.outline ? at::Device(at::kMeta) : mode_.device);
  const bool whole =
      stage_.embeds && stage_.heads && stage_.chunks == std::vector<BlockRange>{{.first = 0, .last = config_.n_layer}};
  if (!whole)
    outline_ = std::make_unique<Gpt2>(config, lora, quant, pad_to, mode, recompute, StageRange{.outline = true});
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
    if (is_trained_range(info.name)) continue;  // begins with the first step of its width
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
  const TraceRange range("embedding");
  const at::Tensor& wte = store_.tensor(wte_);
  const at::Tensor& wpe = store_.tensor(wpe_);
  if (const KvCache* cache = context.kv_cache; cache != nullptr && !cache->in_prompts())
    return (at::embedding(wte, tokens) + at::embedding(wpe, cache->positions())).to(mode_.dtype);
  return mode_.is_cuda() ? token_embedding(tokens, {wte, wte_}, {wpe, wpe_}, mode_.dtype, context.gradient_sink)
                         : at::embedding(wte, tokens) + wpe.narrow(0, 0, tokens.size(1));
}

std::vector<bool> Gpt2::groups_used(const PrecisionMap& precision) const {
  std::vector<bool> used;
  for (const FlatGroup& group : store_.groups())
    used.push_back(group.key.kind != GroupKind::kWidth || precision.uses_weight_bits(group.key.bits));
  return used;
}

std::vector<int> Gpt2::code_bits(const PrecisionMap& precision) const {
  std::vector<int> bits(static_cast<std::size_t>(store_.count()));
  for (const QuantLinear* linear : linears_) {
    const LayerPrecision& layer = precision.at(linear->spec().index);
    const int weight = linear->spec().weight;
    if (store_.info(weight).coded && linear->reads_codes(layer))
      bits[static_cast<std::size_t>(weight)] = layer.weight.bits();
  }
  return bits;
}

std::int64_t Gpt2::fused_blocks(const ForwardContext& context) const {
  return std::count_if(blocks_.begin(), blocks_.end(), [&](const auto& block) { return block->fuses(context); });
}

bool Gpt2::has_linear(std::int64_t index) const {
  return std::any_of(linears_.begin(), linears_.end(),
                     [&](const QuantLinear* linear) { return linear->spec().index == index; });
}

QuantLinear* Gpt2::find_linear(std::int64_t index) const {
  QAT_CHECK(has_linear(index), "layer " + std::to_string(index) + " belongs to another stage");
  return *std::find_if(linears_.begin(), linears_.end(),
                       [&](const QuantLinear* linear) { return linear->spec().index == index; });
}

std::size_t Gpt2::first_block(int chunk) const {
  std::int64_t blocks = 0;
  for (int before = 0; before < chunk; ++before) {
    const BlockRange& range = stage_.chunks[static_cast<std::size_t>(before)];
    blocks += range.last - range.first;
  }
  return static_cast<std::size_t>(blocks);
}

std::size_t Gpt2::prepare_blocks(std::size_t first, std::size_t end, const ForwardContext& context) const {
  const auto linears = [&](std::size_t from, std::size_t to) {
    const auto linear = [&](std::size_t block) {
      return linears_.begin() + static_cast<std::ptrdiff_t>(kLinearsPerBlock * block);
    };
    return std::vector<const QuantLinear*>(linear(from), linear(to));
  };
  for (const QuantLinear* linear : linears(first, first + 1)) (void)store_.tensor(linear->spec().weight);
  const auto arrived = [&](std::size_t block) {
    const std::vector<const QuantLinear*> all = linears(block, block + 1);
    return std::none_of(all.begin(), all.end(),
                        [&](const QuantLinear* linear) { return store_.is_on_its_way(linear->spec().weight); });
  };
  std::size_t last = first + 1;
  while (last < end && arrived(last)) ++last;
  QuantLinear::prepare_all(linears(first, last), context, mode_.dtype);
  return last;
}

at::Tensor Gpt2::states_after_blocks(const at::Tensor& states, int chunk, const ForwardContext& context,
                                     HiddenStates& wanted) const {
  const std::size_t begin = first_block(chunk), end = first_block(chunk + 1);
  // On a GPU one pass goes at a time, and launches are dear.
  const bool prepares = mode_.is_cuda() && context.weight_cache != nullptr && !context.calibrating();
  std::size_t prepared = begin;
  ResidualPair x{.residual = states.reshape({-1, config_.n_embd}), .delta = {}};
  const auto want = [&](std::int64_t number, const auto& state) {
    if (const auto found = wanted.find(number); found != wanted.end()) found->second = state();
  };
  std::int64_t layer = stage_.chunks[static_cast<std::size_t>(chunk)].first;
  for (std::size_t block = begin; block < end; ++block) {
    const std::string name = "h." + std::to_string(layer);
    const TraceRange range(name.c_str());
    if (prepares && block == prepared) prepared = prepare_blocks(block, end, context);
    want(layer++, [&] { return sum_of(x); });
    x = blocks_[block]->forward(x, context, states.size(0));
  }
  if (!heads(chunk)) return sum_of(x).view(states.sizes());
  const TraceRange range("ln_f");
  const at::Tensor out = ln_f_->forward(x, context.precision->nominal().weight.bits());
  want(config_.n_layer, [&] { return out; });
  return out.view(states.sizes());
}

StagePass Gpt2::forward(const ModelInput& input, const ForwardContext& context, const HiddenStates& wanted) const {
  QAT_CHECK(context.precision != nullptr && context.precision->size() == config_.linears(),
            "a pass needs the width of every linear layer");
  QAT_CHECK(0 <= input.chunk && input.chunk < chunks(), "a chunk of this stage");
  QAT_CHECK(input.tokens.defined() != input.states.defined(), "tokens enter, or states");
  QAT_CHECK(!input.tokens.defined() || embeds(input.chunk), "tokens enter the chunk that embeds");
  if (input.tokens.defined()) {
    QAT_CHECK(input.tokens.size(1) <= config_.n_positions, "sequence longer than n_positions");
    StagePass pass{.states = {}, .output = {}, .features = wanted};
    KvCache* cache = context.kv_cache;
    QAT_CHECK(cache == nullptr || heads(input.chunk), "a cache of keys and values is for a model in one piece");
    if (cache != nullptr) cache->begin_pass(input.tokens.size(0), input.tokens.size(1));
    at::Tensor x = embed(input.tokens, context);
    if (has_copy_of_table() && x.requires_grad()) pass.embedded = x;
    const double p = config_.embd_dropout;
    if (context.training && p > 0.0) x = counter_dropout(x, p, context.rng(RngPurpose::kDropout, kEmbeddingSlot));
    pass.output = states_after_blocks(x, input.chunk, context, pass.features);
    if (cache != nullptr) cache->end_pass();
    return pass;
  }
  StagePass pass{
      .states = input.states.detach().requires_grad_(at::GradMode::is_enabled()), .output = {}, .features = wanted};
  pass.output = states_after_blocks(pass.states, input.chunk, context, pass.features);
  return pass;
}

at::Tensor Gpt2::embeddings(const at::Tensor& tokens) const {
  QAT_CHECK(embeds(/*chunk=*/0), "another stage embeds");
  const at::NoGradGuard no_grad;
  return embed(tokens, {});
}

at::Tensor Gpt2::hidden(const at::Tensor& tokens, const ForwardContext& context) const {
  return forward({.tokens = tokens}, context).output;
}

StageGradients Gpt2::backward(const StagePass& pass, const at::Tensor& d_output) const {
  const TraceRange range("backward");
  std::vector<at::Tensor> wanted = store_.trainable_tensors();
  if (pass.states.defined()) wanted.push_back(pass.states);
  if (pass.embedded.defined()) wanted.push_back(pass.embedded);
  // Not backward(): that adds into the parameters' own gradients, which passes at the same time would share.
  std::vector<at::Tensor> results = {pass.output}, gradients = {d_output};
  // States below all that is trained, as those of frozen embeddings, are compared and teach nothing.
  if (const at::Tensor& loss = pass.compared.loss; loss.defined() && loss.requires_grad())
    results.push_back(loss), gradients.push_back(at::full_like(loss, pass.compared.weight));
  StageGradients out{.parameters = torch::autograd::grad(results, wanted, gradients, /*retain_graph=*/false,
                                                         /*create_graph=*/false, /*allow_unused=*/true)};
  const auto take = [&](const at::Tensor& asked, at::Tensor& found) {
    if (!asked.defined()) return;
    found = out.parameters.back();
    out.parameters.pop_back();
  };
  take(pass.embedded, out.embedded);
  take(pass.states, out.states);
  return out;
}

void Gpt2::add_embedding_gradient(const at::Tensor& gradient, const at::Tensor& tokens,
                                  const at::Tensor& embedded) const {
  QAT_CHECK(trains_table_of_first_stage(), "the stage that heads trains the table");
  const at::NoGradGuard no_grad;
  if (mode_.is_cuda())
    add_token_gradient(tokens, embedded, gradient);
  else
    gradient.add_(at::embedding_dense_backward(embedded, tokens, config_.vocab_size, /*padding_idx=*/-1,
                                               /*scale_grad_by_freq=*/false));
}

std::int64_t Gpt2::macs_per_token(std::int64_t linear) const {
  const LinearSpec& spec = this->linear(linear).spec();
  return spec.in_features * spec.out_features;
}

}  // namespace qat
