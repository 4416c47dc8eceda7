#include "src/loss/distillation.h"

#include <ATen/ATen.h>

#include "kernels/loss/distillation.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

// As the kernel's specification, by LibTorch's vectorized operators.
RowLosses distill_cpu(at::Tensor& logits, const at::Tensor& targets, std::int64_t begin, const Distillation& taught,
                      double cross_entropy_weight, double gradient_scale) {
  const at::Tensor column = targets.unsqueeze(1), masked = column == kernels::kIgnoredTarget;
  const at::Tensor classes = column.masked_fill(masked, 0);
  const at::Tensor log_p = at::log_softmax(logits, 1), log_soft = at::log_softmax(logits / taught.temperature, 1);
  const at::Tensor cross_entropy = log_p.gather(1, classes).neg().masked_fill_(masked, 0.0).sum(at::kDouble);
  // T (K softmax(z / T) - sum of the teachers'), and the divergence on the way.
  at::Tensor gradient = log_soft.exp().mul_(static_cast<double>(taught.teachers.size()));
  at::Tensor divergence = at::zeros({}, logits.options().dtype(at::kDouble));
  for (const Distillation::Logits& teacher : taught.teachers) {
    const at::Tensor t = teacher(begin, logits.size(0)).narrow(1, 0, logits.size(1));
    const at::Tensor log_t = at::log_softmax(t / taught.temperature, 1), of_teacher = log_t.exp();
    gradient -= of_teacher;
    // A class that the teacher excludes has no weight: 0 * log 0 is 0.
    const at::Tensor terms = (of_teacher * (log_t - log_soft)).masked_fill_(of_teacher == 0.0, 0.0);
    divergence += terms.sum(1, /*keepdim=*/true).masked_fill_(masked, 0.0).sum(at::kDouble);
  }
  gradient.mul_(taught.weight * taught.temperature);
  if (cross_entropy_weight != 0.0) {
    at::Tensor of_target = log_p.exp();
    of_target.scatter_add_(1, classes, at::full(classes.sizes(), -1.0, logits.options()));
    gradient.add_(of_target, cross_entropy_weight);
  }
  logits.copy_(gradient.mul_(gradient_scale).masked_fill_(masked, 0.0));
  return {cross_entropy, divergence * (taught.temperature * taught.temperature)};
}

RowLosses distill_cuda(at::Tensor& logits, std::int64_t classes, const at::Tensor& targets, std::int64_t begin,
                       const Distillation& taught, double cross_entropy_weight, double gradient_scale) {
  std::vector<at::Tensor> all;
  std::vector<ConstFloatMatrix> teachers;
  for (const Distillation::Logits& teacher : taught.teachers) {
    all.push_back(teacher(begin, logits.size(0)).to(logits.scalar_type()).contiguous());
    teachers.push_back(const_float_matrix(all.back()));
  }
  at::Tensor cross_entropy = at::empty(targets.sizes(), logits.options().dtype(at::kFloat));
  at::Tensor distillation = at::empty_like(cross_entropy);
  kernels::distillation(exec_for(logits), float_matrix(logits), teachers, classes,
                        {targets.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(targets.numel())},
                        {.cross_entropy = static_cast<float>(cross_entropy_weight),
                         .distillation = static_cast<float>(taught.weight),
                         .temperature = static_cast<float>(taught.temperature)},
                        /*with_gradient=*/true, static_cast<float>(gradient_scale), span_of(cross_entropy),
                        span_of(distillation));
  return {cross_entropy.sum(at::kDouble), distillation.sum(at::kDouble)};
}

}  // namespace

RowLosses distill_rows(at::Tensor& logits, std::int64_t classes, const at::Tensor& targets, std::int64_t begin,
                       const Distillation& taught, double cross_entropy_weight, double gradient_scale) {
  return logits.is_cuda() ? distill_cuda(logits, classes, targets, begin, taught, cross_entropy_weight, gradient_scale)
                          : distill_cpu(logits, targets, begin, taught, cross_entropy_weight, gradient_scale);
}

}  // namespace qat
