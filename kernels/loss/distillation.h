// Knowledge distillation over rows of logits, beside cross-entropy, gradients in place of the logits (Hinton et al.,
// arXiv:1503.02531).
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"
#include "kernels/common/view.h"
#include "kernels/loss/softmax_cross_entropy.h"

namespace qat::kernels {

// Teachers of one row at most: every width there is.
constexpr std::int64_t kMostTeachers = 20;

struct DistillationWeights {
  float cross_entropy = 1.0F;
  float distillation = 1.0F;
  float temperature = 1.0F;  // T, above 0
};

// Per row m with a target y, student's logits z and those t_k of each teacher, over the first `classes` columns:
//
//   cross_entropy[m] = log sum_v exp(z[v]) - z[y]
//   distillation[m]  = T^2 sum_k KL(softmax(t_k / T) || softmax(z / T))
//   z[v] <- gradient_scale (c (softmax(z)[v] - [v == y]) + d T sum_k (softmax(z / T)[v] - softmax(t_k / T)[v]))
//
// c and d: the weights; without `with_gradient` z stays. The columns from `classes` on become 0, and so does a row
// whose target is kIgnoredTarget, which has no loss. A teacher of -infinity at a class gives that class no weight.
// logits: [M, >= classes] (CPU: fp32; CUDA: fp32 or bf16), dense; teachers: 1..kMostTeachers of the same dtype, [M, >=
// classes], dense; targets: [M], 0 <= target < classes, or kIgnoredTarget; both losses: [M].
void distillation(const Exec& exec, FloatMatrix logits, std::span<const ConstFloatMatrix> teachers,
                  std::int64_t classes, std::span<const std::int64_t> targets, const DistillationWeights& weights,
                  bool with_gradient, float gradient_scale, std::span<float> cross_entropy,
                  std::span<float> distillation);

}  // namespace qat::kernels
