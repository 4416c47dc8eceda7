// GPT-2 at any width: pre-norm blocks, tanh GELU, learned positions, layer-norm eps 1e-5
// (Radford et al. 2019; parameters under Hugging Face's names, linear weights stored [out, in]).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <ranges>
#include <string>
#include <utility>
#include <vector>

#include "src/loss/lm_head.h"
#include "src/loss/loss_scale.h"
#include "src/loss/span_loss.h"
#include "src/model/block.h"
#include "src/model/forward_context.h"
#include "src/model/gpt2_config.h"
#include "src/model/layer_norm.h"
#include "src/model/lesson.h"
#include "src/model/parameter_store.h"
#include "src/model/quant_linear.h"
#include "src/model/stage_range.h"
#include "src/quant/torch_device.h"

namespace qat {

// What enters a stage's chunk: tokens where it embeds, else the residual stream, another chunk's output. Where it
// embeds, states may stand for tokens: they are embeddings then, and have no dropout.
struct ModelInput {
  at::Tensor tokens{};  // int64 [B, T]
  at::Tensor states{};  // [B, T, d] in the activations' dtype
  int chunk = 0;        // of the stage
};

// A chunk of a stage between its forward and its backward pass.
struct StagePass {
  at::Tensor states;      // what entered, where gradients are to leave; undefined: tokens did
  at::Tensor embedded{};  // [B, T, d], where gradients are to leave for a table that another stage trains
  at::Tensor output;      // [B, T, d]: after the last norm if it heads, else the residual stream
  HiddenStates features{};
  FeatureLoss compared{};  // whose gradient joins that of the output
};

struct StageGradients {
  std::vector<at::Tensor> parameters;  // of ParameterStore::trainable_tensors(), fp32; undefined: not used in the pass
  at::Tensor states{};                 // of what entered, [B, T, d]; undefined: tokens did
  at::Tensor embedded{};               // of the tokens' embeddings, for add_embedding_gradient of the stage that heads
};

struct LossAndGradients {
  at::Tensor loss;            // fp32 [], without its weight, on the model's device: reading it waits for the pass
  at::Tensor distillation{};  // likewise, of a pass with a lesson; else undefined
  at::Tensor features{};      // of this chunk's states alone
  HiddenStates feature_sums{};
  double feature_divisor = 0.0;  // as FeatureLoss's
  StageGradients gradients;
};

class Gpt2 {
 public:
  // Declares and allocates all parameters; `pad_to` is ParameterStore::allocate's. Values are zero until
  // init_random() or a checkpoint fills them. The configs must outlive the model.
  // `mode` says where the parameters live and in which dtype activations are, `recompute` what backward computes again:
  // it changes memory and time, and no bit. Under kBlock what a pass's context points to must live until its backward.
  // `me`: ParameterStore::shard's, for a model that is trained; it may be told later.
  Gpt2(const Gpt2Config& config, const LoraConfig& lora, const QuantConfig& quant, std::int64_t pad_to,
       const ComputeMode& mode = {}, Recompute recompute = Recompute::kNone, const StageRange& stage = {},
       const RankOf& me = {});
  Gpt2(const Gpt2&) = delete;
  Gpt2& operator=(const Gpt2&) = delete;

  // normal(0, 0.02); projections into the residual stream normal(0, 0.02 / sqrt(2 n_layer)); biases 0; norms 1 and 0;
  // LoRA A uniform(+-1/sqrt(in)), B 0. A function of (seed, parameter name) alone.
  void init_random(std::uint64_t seed);

  // One micro-batch through a chunk of this stage, and back: d_output is the gradient of pass.output. wanted: hidden
  // states by their numbers, of which the chunk's are filled in.
  StagePass forward(const ModelInput& input, const ForwardContext& context, const HiddenStates& wanted = {}) const;
  // The same of a pass that trains: with what its states learn, and what they leave. The rest is loss_and_gradients'.
  StagePass learn(const ModelInput& input, const at::Tensor& targets, const ForwardContext& context,
                  const LossScale& scale, const Lesson& lesson, Teaching* teaching) const;
  StageGradients backward(const StagePass& pass, const at::Tensor& d_output) const;
  // Where embedding and head are one table and two stages: the stage that heads trains it, the one that embeds has a
  // copy. Whether this is such a stage, and the table; its parameter id.
  bool trains_table_of_first_stage() const { return ties_stages() && stage_.heads && !config_.freeze_base; }
  bool has_copy_of_table() const { return ties_stages() && stage_.embeds; }
  int table_id() const { return wte_; }
  // Adds to the table's gradient of a micro-batch, [V, d] and so far its head's, what its embeddings have.
  // embedded: StageGradients' of the first stage. The sum has the bits of a model in one piece.
  void add_embedding_gradient(const at::Tensor& gradient, const at::Tensor& tokens, const at::Tensor& embedded) const;
  // The last chunk of the stage that heads: forward, cross-entropy with targets (int64 [B, T]; kernels::kIgnoredTarget:
  // none), and back. By default the mean over all B * T targets; with masked ones, `scale` says what the sum is divided
  // by. A model that answers questions has span_cross_entropy (src/loss/span_loss.h) instead, whose targets are int64
  // [B, 4]. lesson: what the pass learns beside the targets; teaching: what it leaves to others, or null.
  LossAndGradients loss_and_gradients(const ModelInput& input, const at::Tensor& targets, const ForwardContext& context,
                                      const LossScale& scale = {}, const Lesson& lesson = {},
                                      Teaching* teaching = nullptr) const;
  // A pass that only teaches: no loss, no gradient, no dropout (context.training is false). The chunk's output.
  at::Tensor teach(const ModelInput& input, const ForwardContext& context, Teaching& teaching) const;
  // The output projection, or the head that answers questions, of passes in this context, for others to learn from
  // until parameters change.
  TeacherHead teacher_head(const ForwardContext& context) const;

  // The whole model: tokens, int64 [B, T] -> hidden states after the last norm, [B, T, d].
  // With context.kv_cache they stand behind the tokens that the cache has.
  at::Tensor hidden(const at::Tensor& tokens, const ForwardContext& context) const;
  // Of a stage that embeds, no gradient: tokens, int64 [B, T] -> what enters the first block, [B, T, d].
  at::Tensor embeddings(const at::Tensor& tokens) const;
  // [..., d] -> [..., V].
  at::Tensor logits(const at::Tensor& hidden, const ForwardContext& context) const;
  // Of some tokens' hidden states, no gradient: [M, d] -> fp32 [M, V], what follows each. Weights are prepared once for
  // as long as context's cache of weights lives.
  at::Tensor next_logits(const at::Tensor& hidden, const ForwardContext& context) const;
  // Of a model that answers questions, at the stage that heads, no gradient: hidden(), [B, T, d] -> fp32 [B, 2, T], the
  // logits of an answer's first and last token.
  at::Tensor answer_logits(const at::Tensor& hidden) const;
  // By groups() of parameters(): whether passes at these widths use the group. Those of other widths are left alone.
  std::vector<bool> groups_used(const PrecisionMap& precision) const;
  const QuantConfig& quant() const { return *quant_; }
  // By parameter: the bits of the codes that are all a pass at these widths reads of it; 0: it reads the values.
  std::vector<int> code_bits(const PrecisionMap& precision) const;
  // How many blocks run fused (block.h) in a pass; the others go operator by operator.
  std::int64_t fused_blocks(const ForwardContext& context) const;
  // Whether the output projection runs on codes, in chunks; it then rounds no gradient (docs/training-numerics.md).
  bool head_on_codes(const PrecisionMap& precision) const;
  const ComputeMode& mode() const { return mode_; }
  // Per-token negative log-likelihood, no gradient: fp32 [B, T].
  at::Tensor token_nll(const at::Tensor& tokens, const at::Tensor& targets, const ForwardContext& context) const;
  // The same from hidden(), at the stage that heads.
  at::Tensor nll_of_hidden(const at::Tensor& hidden, const at::Tensor& targets, const ForwardContext& context) const;

  const Gpt2Config& config() const { return config_; }
  ParameterStore& parameters() { return store_; }
  const ParameterStore& parameters() const { return store_; }
  const StageRange& stage() const { return stage_; }  // with the chunks' ends, also of the whole model
  int chunks() const { return static_cast<int>(stage_.chunks.size()); }
  // Whether a chunk of this stage is the model's first, or its last.
  bool embeds(int chunk) const { return stage_.embeds && chunk == 0; }
  bool heads(int chunk) const { return stage_.heads && chunk + 1 == chunks(); }
  // Whether hidden states of this number (HiddenStates) are of a chunk of this stage.
  bool has_states(int chunk, std::int64_t number) const {
    const BlockRange& blocks = stage_.chunks[static_cast<std::size_t>(chunk)];
    return (blocks.first <= number && number < blocks.last) || (number == config_.n_layer && heads(chunk));
  }
  // The whole model's names, shapes and widths; of a stage, an outline without values.
  const Gpt2& whole() const { return outline_ != nullptr ? *outline_ : *this; }
  // The stage's quantized linear layers in order of use: ranges of references.
  auto linears() {
    return std::views::transform(linears_, [](QuantLinear* linear) -> QuantLinear& { return *linear; });
  }
  auto linears() const {
    return std::views::transform(linears_, [](const QuantLinear* linear) -> const QuantLinear& { return *linear; });
  }
  // One of them by its index in PrecisionMap.
  QuantLinear& linear(std::int64_t index) { return *find_linear(index); }
  const QuantLinear& linear(std::int64_t index) const { return *find_linear(index); }
  bool has_linear(std::int64_t index) const;  // else another stage has it
  // Of the whole model, by index in PrecisionMap.
  const std::vector<std::string>& linear_names() const { return linear_names_; }
  // Multiply-accumulates of a linear layer per token, by PrecisionMap index.
  std::int64_t macs_per_token(std::int64_t linear) const;

 private:
  void add_head();
  void add_answer_head();
  bool ties_stages() const {
    return config_.tie_lm_head && !config_.answers_questions() && stage_.embeds != stage_.heads;
  }
  QuantLinear* find_linear(std::int64_t index) const;
  // Token and position embeddings: [B, T, d], of positions 0..T-1, or those that context.kv_cache has.
  at::Tensor embed(const at::Tensor& tokens, const ForwardContext& context) const;
  at::Tensor states_after_blocks(const at::Tensor& states, int chunk, const ForwardContext& context,
                                 HiddenStates& wanted) const;
  void leave(const StagePass& pass, int chunk, Teaching& teaching) const;
  FeatureLoss compare(const StagePass& pass, const at::Tensor& targets, const LossScale& scale,
                      const Lesson& lesson) const;
  // Where a chunk's blocks begin in blocks_; of the number of chunks: where all end.
  std::size_t first_block(int chunk) const;
  // The weights of blocks_[first] and of those behind it, up to `end`, that have arrived with its own are made ready
  // for products; those of later blocks are not waited for. Returns the first block that is not ready.
  std::size_t prepare_blocks(std::size_t first, std::size_t end, const ForwardContext& context) const;
  // Output projection and loss, forward and backward at once.
  struct HeadResult {
    at::Tensor loss, distillation;
    at::Tensor d_output;                                   // of its B * T * d values
    std::vector<std::pair<int, at::Tensor>> parameters{};  // by id; undefined: none
  };
  HeadResult head(const at::Tensor& output, const at::Tensor& targets, const ForwardContext& context,
                  const LossScale& scale, const Distillation& taught) const;
  HeadResult answer_head(const at::Tensor& output, const at::Tensor& targets, const ForwardContext& context,
                         const LossScale& scale, const Distillation& taught) const;
  HeadResult head_by_operators(const at::Tensor& rows, const at::Tensor& targets, const ForwardContext& context,
                               const LossScale& scale, const Distillation& taught) const;
  TeacherHead answer_teacher() const;
  SpanHead span_head() const { return {store_.tensor(answer_weight_), store_.tensor(answer_bias_)}; }
  // The output projection in the form that takes chunks of tokens; none: it goes operator by operator.
  std::optional<LmHead> chunked_head(const ForwardContext& context) const;

  Gpt2Config config_;
  LoraConfig lora_;
  const QuantConfig* quant_;
  ComputeMode mode_;
  StageRange stage_;
  ParameterStore store_;
  std::vector<std::string> linear_names_;
  int wte_ = -1, wpe_ = -1, head_ = -1;        // parameter ids
  int answer_weight_ = -1, answer_bias_ = -1;  // of the head that answers questions
  std::vector<std::unique_ptr<Block>> blocks_;
  std::optional<LayerNorm> ln_f_;
  std::optional<QuantLinear> quantized_head_;
  std::vector<QuantLinear*> linears_;    // the blocks' and the head's
  std::unique_ptr<const Gpt2> outline_;  // of a stage; null: this is the whole model
};

}  // namespace qat
