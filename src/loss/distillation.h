// Learning from teachers' distributions over the vocabulary, beside the targets (Hinton et al., arXiv:1503.02531). A
// teacher's logits are made again from its hidden states, for the tokens at hand: those of all tokens never exist.
// A model that answers questions learns from distributions over places instead (span_loss.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace qat {

struct Distillation {
  double weight = 0.0;       // of temperature^2 * sum over teachers of KL(teacher || student), at the temperature
  double temperature = 1.0;  // what logits are divided by
  // Of each teacher, the logits of tokens [begin, begin + n) of the pass: [n, >= V] in the student's dtype. Of a model
  // that answers questions: fp32 [n, 2], of an answer's first and last token.
  using Logits = std::function<at::Tensor(std::int64_t begin, std::int64_t n)>;
  std::vector<Logits> teachers;

  bool is_off() const { return teachers.empty(); }
};

struct RowLosses {
  at::Tensor cross_entropy, distillation;  // [], double: sums over the rows, without weights
};

// Logits, [n, >= classes], of tokens from `begin` on become the gradient of gradient_scale * (cross_entropy_weight *
// cross-entropy + taught.weight * distillation), summed; kernels/loss/distillation.h has the formulas.
// targets: int64 [n], 0..classes-1 or kernels::kIgnoredTarget: neither loss, and a zero gradient.
RowLosses distill_rows(at::Tensor& logits, std::int64_t classes, const at::Tensor& targets, std::int64_t begin,
                       const Distillation& taught, double cross_entropy_weight, double gradient_scale);

}  // namespace qat
