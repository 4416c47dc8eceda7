// The head of a model that answers questions: where in a text an answer begins and ends, and what it teaches.
#include <ATen/ATen.h>

#include "kernels/common/error.h"
#include "src/loss/span_loss.h"
#include "src/model/dropout.h"
#include "src/model/gpt2.h"

namespace qat {
namespace {

constexpr std::uint64_t kHeadSlot = 1;  // of dropout; kEmbeddingSlot is 0, blocks begin further on (block.cc)

}  // namespace

// Under the names, and in the shapes, of transformers' GPT2ForQuestionAnswering.
void Gpt2::add_answer_head() {
  QAT_CHECK(!config_.quantize_lm_head, "a model that answers questions has no output projection");
  answer_weight_ =
      store_.add("qa_outputs.weight", {2, config_.n_embd}, GroupKind::kBase, /*trainable=*/true, /*decay=*/true);
  answer_bias_ = store_.add("qa_outputs.bias", {2}, GroupKind::kBase, /*trainable=*/true, /*decay=*/false);
}

at::Tensor Gpt2::answer_logits(const at::Tensor& hidden) const {
  QAT_CHECK(config_.answers_questions() && stage_.heads, "the model's head answers questions");
  const at::NoGradGuard no_grad;
  return span_logits(hidden, span_head());
}

Gpt2::HeadResult Gpt2::answer_head(const at::Tensor& output, const at::Tensor& targets, const ForwardContext& context,
                                   const LossScale& scale, const Distillation& taught) const {
  const double p = context.training ? config_.head_dropout : 0.0;
  const kernels::RngKey key = context.rng(RngPurpose::kDropout, kHeadSlot);
  const SpanHead head = span_head();
  const at::Tensor states = p > 0.0 ? dropped(output.detach(), p, key) : output.detach();
  const at::Tensor logits = span_logits(states, head);
  LossOfSpans found = span_cross_entropy(logits, targets, scale);
  at::Tensor distillation;
  for (const Distillation::Logits& teacher : taught.teachers) {
    const at::Tensor rows = teacher(0, logits.size(0) * logits.size(2));
    const LossOfSpans one =
        span_distillation(logits, rows.view({logits.size(0), logits.size(2), rows.size(1)}).transpose(1, 2), targets,
                          taught.temperature, {.tokens = scale.tokens, .weight = taught.weight});
    found.logits.add_(one.logits);
    distillation = distillation.defined() ? distillation + one.loss : one.loss;
  }
  SpanGradients gradients = span_backward(states, head, found.logits);
  return {.loss = found.loss,
          .distillation = distillation,
          .d_output = p > 0.0 ? dropped(gradients.hidden, p, key) : gradients.hidden,
          .parameters = {{answer_weight_, gradients.weight}, {answer_bias_, gradients.bias}}};
}

// Its dropout is behind what a pass leaves: a teacher has none.
TeacherHead Gpt2::answer_teacher() const {
  return [head = span_head()](const at::Tensor& output) -> Distillation::Logits {
    return [=](std::int64_t begin, std::int64_t n) {
      return span_logits(output.narrow(0, begin, n).unsqueeze(0), head).squeeze(0).t();  // as of one window
    };
  };
}

}  // namespace qat
