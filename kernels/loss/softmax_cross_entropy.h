// Cross-entropy over rows of logits, gradients in place of the logits.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"
#include "kernels/common/view.h"

namespace qat::kernels {

// In a target's place: the row has no loss, and its gradient is zero.
constexpr std::int64_t kIgnoredTarget = -100;

// losses[m] = log sum_v exp(logits[m,v]) - logits[m, targets[m]], v over the first `classes` columns, in fp32 with the
// row's maximum taken out.
// If `with_gradient`, logits[m,v] becomes (softmax(logits[m])[v] - [v == targets[m]]) * gradient_scale, rounded to the
// matrix's dtype, and the columns from `classes` on (padding for the matrix units) become 0; else logits stay.
// logits: [M, >= classes] (CPU: fp32; CUDA: fp32 or bf16), dense; targets: [M], 0 <= target < classes, or
// kIgnoredTarget; losses: [M].
void softmax_cross_entropy(const Exec& exec, FloatMatrix logits, std::int64_t classes,
                           std::span<const std::int64_t> targets, bool with_gradient, float gradient_scale,
                           std::span<float> losses);

}  // namespace qat::kernels
