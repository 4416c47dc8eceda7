// The model from its last hidden states on: output projection, losses, what it teaches and learns.
#include <torch/torch.h>

#include <utility>

#include "kernels/common/error.h"
#include "kernels/common/trace_range.h"
#include "kernels/loss/softmax_cross_entropy.h"
#include "src/loss/lm_head_loss.h"
#include "src/model/gpt2.h"
#include "src/quant/gemm_path.h"

// Shape suffixes: B sequences, T tokens, M of all sequences, d width, V vocabulary.

namespace qat {
namespace {

constexpr std::int64_t kPlainHeadKey = -1;  // of the unquantized output projection in a WeightCache
constexpr std::int64_t kCodedHeadKey = -2;  // of the one that takes chunks of tokens

}  // namespace

bool Gpt2::head_on_codes(const PrecisionMap& precision) const {
  if (!quantized_head_) return false;
  const Device device = mode_.is_cuda() ? Device::kCuda : Device::kCpu;
  const LayerPrecision& layer = precision.at(quantized_head_->spec().index);
  const AdapterSlot* slot = quantized_head_->adapter(layer.weight.bits());
  return choose_gemm_path(*quant_, layer, device) == GemmPath::kCodes && scales_by_row(*quant_) &&
         (slot == nullptr || slot->on_codes());
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
    double alpha = 0.0;
    if (const AdapterSlot* slot = linear.adapter(precision.weight.bits())) {
      alpha = slot->shape.alpha;
      head.lora_a = {store_.tensor(slot->a), slot->a};
      head.lora_b = {store_.tensor(slot->b), slot->b};
    }
    const bool backward = at::GradMode::is_enabled();
    key = {.linear = kCodedHeadKey, .path = GemmPath::kCodes, .bits = precision.weight.bits(), .backward = backward};
    prepare = [&head, &precision, alpha, backward, this] {
      return coded_head({head.weight.tensor, head.lora_a.tensor, head.lora_b.tensor, alpha}, precision.weight,
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
  const TraceRange range("lm_head");
  return quantized_head_ ? quantized_head_->forward(hidden, context)
                         : at::linear(hidden, store_.tensor(head_).to(hidden.scalar_type()));
}

at::Tensor Gpt2::next_logits(const at::Tensor& hidden, const ForwardContext& context) const {
  const at::NoGradGuard no_grad;
  const std::optional<LmHead> head = chunked_head(context);
  if (!head) return logits(hidden, context).to(at::kFloat);
  return head_forward(*head, hidden.contiguous()).logits.narrow(1, 0, head->classes()).to(at::kFloat);
}

// All logits at once, through autograd.
Gpt2::HeadResult Gpt2::head_by_operators(const at::Tensor& rows, const at::Tensor& targets,
                                         const ForwardContext& context, const LossScale& scale,
                                         const Distillation& taught) const {
  const at::Tensor x = rows.detach().requires_grad_(true);
  // With teachers the logits have their gradient already.
  at::Tensor result, gradient;
  HeadResult out;
  if (taught.is_off()) {
    result = cross_entropy(logits(x, context).to(at::kFloat), targets, scale);
    gradient = at::full_like(result, scale.weight);
    out.loss = result.detach();
  } else {
    const double divisor = scale.divisor(targets.numel());
    result = logits(x, context).to(at::kFloat);
    gradient = result.detach().clone();
    const RowLosses both = distill_rows(gradient, config_.vocab_size, targets, 0, taught, scale.weight, 1.0 / divisor);
    out.loss = (both.cross_entropy / divisor).to(at::kFloat);
    out.distillation = (both.distillation / divisor).to(at::kFloat);
  }
  std::vector<at::Tensor> wanted = {x};
  std::vector<int> ids;
  for (const int id : quantized_head_->parameter_ids(context.precision->at(quantized_head_->spec().index)))
    if (store_.info(id).trainable) wanted.push_back(store_.tensor(id)), ids.push_back(id);
  const auto found = torch::autograd::grad({result}, wanted, {gradient}, /*retain_graph=*/false,
                                           /*create_graph=*/false, /*allow_unused=*/true);
  out.d_output = found[0];
  for (std::size_t i = 0; i < ids.size(); ++i) out.parameters.emplace_back(ids[i], found[i + 1]);
  return out;
}

Gpt2::HeadResult Gpt2::head(const at::Tensor& output, const at::Tensor& targets, const ForwardContext& context,
                            const LossScale& scale, const Distillation& taught) const {
  const TraceRange range("head");
  if (config_.answers_questions()) return answer_head(output, targets, context, scale, taught);
  const at::Tensor rows = output.detach().view({-1, config_.n_embd}), flat_targets = targets.reshape({-1});
  const std::optional<LmHead> chunked = chunked_head(context);
  if (!chunked) return head_by_operators(rows, flat_targets, context, scale, taught);
  LossOfHidden found = lm_head_loss(rows, *chunked, flat_targets, scale, /*chunk_bytes=*/0, taught);
  return {.loss = found.loss,
          .distillation = found.distillation,
          .d_output = found.hidden,
          .parameters = {{head_, found.gradients.weight},
                         {chunked->lora_a.id, found.gradients.lora_a},
                         {chunked->lora_b.id, found.gradients.lora_b}}};
}

void Gpt2::leave(const StagePass& pass, int chunk, Teaching& teaching) const {
  if (heads(chunk)) teaching.output = pass.output.detach().reshape({-1, pass.output.size(-1)});
  for (auto& [number, state] : teaching.features)
    if (has_states(chunk, number)) state = pass.features.at(number).detach();
}

FeatureLoss Gpt2::compare(const StagePass& pass, const at::Tensor& targets, const LossScale& scale,
                          const Lesson& lesson) const {
  const auto count = lesson.feature_count > 0 ? lesson.feature_count : std::ssize(lesson.features);
  if (count == 0 || !targets.defined()) return {};  // a chunk that has no states to compare needs no targets
  const bool answers = config_.answers_questions();
  const double divisor = scale.divisor(answers ? targets.size(0) : targets.numel()),
               elements = static_cast<double>(config_.n_embd) * static_cast<double>(count);
  FeatureLoss found{.weight = lesson.feature_weight, .divisor = divisor * elements};
  if (lesson.features.empty()) return found;
  const at::Tensor shares =  // of the tokens, [M, 1]
      answers ? token_shares(targets, pass.output.size(1)) : targets.reshape({-1, 1}).ne(kernels::kIgnoredTarget);
  at::Tensor sum;
  for (const auto& [number, of_teacher] : lesson.features) {
    const at::Tensor& own = pass.features.at(number);
    const at::Tensor one = ((own.to(at::kFloat) - of_teacher.to(at::kFloat)).square() * shares).sum();
    found.sums[number] = one.detach();
    sum = sum.defined() ? sum + one : one;
  }
  found.loss = sum / found.divisor;
  return found;
}

StagePass Gpt2::learn(const ModelInput& input, const at::Tensor& targets, const ForwardContext& context,
                      const LossScale& scale, const Lesson& lesson, Teaching* teaching) const {
  const at::AutoGradMode with_gradients(true);
  HiddenStates wanted = lesson.features;
  if (teaching != nullptr) wanted.insert(teaching->features.begin(), teaching->features.end());
  StagePass pass = [&] {
    const TraceRange range("forward");
    return forward(input, context, wanted);
  }();
  if (teaching != nullptr) leave(pass, input.chunk, *teaching);
  pass.compared = compare(pass, targets, scale, lesson);
  pass.features.clear();
  return pass;
}

LossAndGradients Gpt2::loss_and_gradients(const ModelInput& input, const at::Tensor& targets,
                                          const ForwardContext& context, const LossScale& scale, const Lesson& lesson,
                                          Teaching* teaching) const {
  QAT_CHECK(heads(input.chunk), "the last chunk has the loss");
  const at::AutoGradMode with_gradients(true);
  const StagePass pass = learn(input, targets, context, scale, lesson, teaching);
  const FeatureLoss& compared = pass.compared;
  HeadResult last = head(pass.output, targets, context, scale, lesson.distillation);
  LossAndGradients out{.loss = last.loss,
                       .distillation = last.distillation,
                       .features = compared.loss.defined() ? compared.loss.detach() : compared.loss,
                       .feature_sums = compared.sums,
                       .feature_divisor = compared.divisor,
                       .gradients = backward(pass, last.d_output.view(pass.output.sizes()))};
  for (auto& [id, gradient] : last.parameters) {
    if (!gradient.defined()) continue;
    at::Tensor& found = out.gradients.parameters.at(static_cast<std::size_t>(store_.info(id).trainable_index));
    found = found.defined() ? gradient.add_(found) : gradient;  // a tied table has one from the embeddings
  }
  return out;
}

at::Tensor Gpt2::teach(const ModelInput& input, const ForwardContext& context, Teaching& teaching) const {
  QAT_CHECK(!context.training, "a pass that only teaches has no dropout");
  const at::NoGradGuard no_grad;
  const TraceRange range("teacher");
  const StagePass pass = forward(input, context, teaching.features);
  leave(pass, input.chunk, teaching);
  return pass.output;
}

TeacherHead Gpt2::teacher_head(const ForwardContext& context) const {
  const at::NoGradGuard no_grad;
  if (config_.answers_questions()) return answer_teacher();
  if (const std::optional<LmHead> head = chunked_head(context))
    return [head = *head](const at::Tensor& output) -> Distillation::Logits {
      return [=](std::int64_t begin, std::int64_t n) { return head_forward(head, output.narrow(0, begin, n)).logits; };
    };
  // Scales may span all tokens: then only whole logits are what the teacher's own pass would have.
  return [product = quantized_head_->product(context, mode_.dtype)](const at::Tensor& output) -> Distillation::Logits {
    return [product, output, whole = at::Tensor()](std::int64_t begin, std::int64_t n) mutable {
      const at::NoGradGuard without;
      if (!whole.defined()) whole = product(output).to(at::kFloat);
      return whole.narrow(0, begin, n);
    };
  };
}

at::Tensor Gpt2::token_nll(const at::Tensor& tokens, const at::Tensor& targets, const ForwardContext& context) const {
  const at::NoGradGuard no_grad;
  return nll_of_hidden(hidden(tokens, context), targets, context);
}

at::Tensor Gpt2::nll_of_hidden(const at::Tensor& hidden, const at::Tensor& targets,
                               const ForwardContext& context) const {
  const at::NoGradGuard no_grad;
  const at::Tensor flat_targets = targets.reshape({-1});
  at::Tensor nll;
  if (const std::optional<LmHead> head = chunked_head(context)) {
    nll = lm_head_token_nll(hidden.reshape({-1, config_.n_embd}), *head, flat_targets);
  } else {
    const at::Tensor all = logits(hidden, context).reshape({-1, config_.vocab_size}).to(at::kFloat);
    nll = at::nll_loss(at::log_softmax(all, 1), flat_targets, /*weight=*/{}, at::Reduction::None);
  }
  return nll.view(targets.sizes());
}

}  // namespace qat
