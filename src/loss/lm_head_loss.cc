#include "src/loss/lm_head_loss.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "kernels/loss/softmax_cross_entropy.h"
#include "src/quant/torch_view.h"

// Shape letters: M tokens, n of them in a chunk, V vocabulary, d width.

namespace qat {
namespace {

// copies: matrices of logits that a chunk has at a time, the teachers' among them.
std::int64_t rows_per_chunk(const at::Tensor& h, const LmHead& head, std::int64_t chunk_bytes,
                            std::int64_t copies = 1) {
  return head_chunk_rows(h.size(0) / copies, copies * head.rows() * static_cast<std::int64_t>(h.element_size()),
                         h.is_cuda(), chunk_bytes);
}

// Which of a chunk's targets count, and a class to look up for each: [n, 1].
struct ChunkTargets {
  at::Tensor masked;  // undefined: none is
  at::Tensor classes;
};
ChunkTargets chunk_targets_cpu(const at::Tensor& targets) {
  const at::Tensor column = targets.unsqueeze(1), masked = column == kernels::kIgnoredTarget;
  if (!masked.any().item<bool>()) return {.masked = {}, .classes = column};
  return {.masked = masked, .classes = column.masked_fill(masked, 0)};
}

// lse: [n, 1], of the logits' rows -> [n, 1].
at::Tensor losses_cpu(const at::Tensor& logits, const at::Tensor& lse, const ChunkTargets& targets) {
  const at::Tensor losses = lse - logits.gather(1, targets.classes);
  return targets.masked.defined() ? losses.masked_fill(targets.masked, 0.0) : losses;
}

// Sum of the chunk's losses, in double; logits become gradients of that sum, scaled.
at::Tensor chunk_loss_cpu(at::Tensor& logits, const at::Tensor& chunk_targets, double gradient_scale) {
  const ChunkTargets targets = chunk_targets_cpu(chunk_targets);
  const at::Tensor lse = logits.logsumexp(1, /*keepdim=*/true);
  at::Tensor sum = losses_cpu(logits, lse, targets).sum(at::kDouble);
  logits.sub_(lse).exp_();  // softmax
  logits.scatter_add_(1, targets.classes, at::full(targets.classes.sizes(), -1.0, logits.options()));
  logits.mul_(gradient_scale);
  if (targets.masked.defined()) logits.masked_fill_(targets.masked, 0.0);
  return sum;
}

at::Tensor token_losses_cuda(at::Tensor& logits, const at::Tensor& targets, std::int64_t classes, bool with_gradient,
                             double gradient_scale) {
  at::Tensor losses = at::empty(targets.sizes(), logits.options().dtype(at::kFloat));
  kernels::softmax_cross_entropy(exec_for(logits), float_matrix(logits), classes,
                                 {targets.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(targets.numel())},
                                 with_gradient, static_cast<float>(gradient_scale), span_of(losses));
  return losses;
}

// Where the head's gradients are added up, zeros so far.
LinearGradients empty_sums(const LmHead& head) {
  const auto sum_for = [&](const PassParameter& parameter, std::int64_t rows) {
    const at::Tensor& t = parameter.tensor;
    return t.defined() && t.requires_grad() ? at::zeros({rows, t.size(1)}, t.options().requires_grad(false))
                                            : at::Tensor();
  };
  LinearGradients sums;
  if (head.sink != nullptr && head.weight.tensor.requires_grad()) sums.weight = head.sink->open(head.weight.id);
  // As many rows in either place: products of other shapes add up in other orders.
  sums.weight = sums.weight.defined() ? sums.weight.zero_() : sum_for(head.weight, head.classes());
  if (head.lora_a.tensor.defined()) {
    sums.lora_a = sum_for(head.lora_a, head.lora_a.tensor.size(0));
    sums.lora_b = sum_for(head.lora_b, head.rows());
  }
  return sums;
}

}  // namespace

LossOfHidden lm_head_loss(const at::Tensor& h, const LmHead& head, const at::Tensor& targets, const LossScale& scale,
                          std::int64_t chunk_bytes, const Distillation& taught) {
  const at::NoGradGuard no_grad;
  const std::int64_t rows = h.size(0), classes = head.classes();
  const double divisor = scale.divisor(rows), gradient_scale = scale.weight / divisor;
  LossOfHidden out{.loss = {}, .distillation = {}, .hidden = at::empty_like(h), .gradients = {}};
  const LinearGradients sums = empty_sums(head);
  at::Tensor loss = at::zeros({}, h.options().dtype(at::kDouble)), distillation = at::zeros_like(loss);
  const std::int64_t step = rows_per_chunk(h, head, chunk_bytes, 1 + std::ssize(taught.teachers));
  for (std::int64_t begin = 0; begin < rows; begin += step) {
    const std::int64_t n = std::min(step, rows - begin);
    const at::Tensor chunk_targets = targets.narrow(0, begin, n);
    HeadPass pass = head_forward(head, h.narrow(0, begin, n));
    if (!taught.is_off()) {
      const RowLosses both =
          distill_rows(pass.logits, classes, chunk_targets, begin, taught, scale.weight, 1.0 / divisor);
      loss += both.cross_entropy;
      distillation += both.distillation;
    } else {
      loss += h.is_cuda()
                  ? token_losses_cuda(pass.logits, chunk_targets, classes, /*with_gradient=*/true, gradient_scale)
                        .sum(at::kDouble)
                  : chunk_loss_cpu(pass.logits, chunk_targets, gradient_scale);
    }
    head_backward(head, pass, pass.logits, out.hidden.narrow(0, begin, n), sums);
  }
  out.loss = (loss / divisor).to(at::kFloat);
  if (!taught.is_off()) out.distillation = (distillation / divisor).to(at::kFloat);
  const auto real_rows = [&](const at::Tensor& t) { return t.defined() ? t.narrow(0, 0, classes) : t; };
  out.gradients = {.weight = real_rows(sums.weight), .lora_a = sums.lora_a, .lora_b = real_rows(sums.lora_b)};
  if (head.sink != nullptr && !head.weight_has_other_uses && head.sink->opened(head.weight.id).defined())
    head.sink->written(head.weight.id);
  return out;
}

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets, const LossScale& scale) {
  const at::Tensor sum =
      at::nll_loss(at::log_softmax(logits, 1), targets, /*weight=*/{}, at::Reduction::Sum, kernels::kIgnoredTarget);
  // By a tensor: a GPU multiplies by a number's inverse, which is not quite the mean.
  return sum / at::full({}, scale.divisor(targets.numel()), sum.options().requires_grad(false));
}

at::Tensor lm_head_token_nll(const at::Tensor& h, const LmHead& head, const at::Tensor& targets,
                             std::int64_t chunk_bytes) {
  const at::NoGradGuard no_grad;
  const at::Tensor rows = h.contiguous();
  std::vector<at::Tensor> parts;
  const std::int64_t step = rows_per_chunk(h, head, chunk_bytes);
  for (std::int64_t begin = 0; begin < h.size(0); begin += step) {
    const std::int64_t n = std::min(step, h.size(0) - begin);
    const at::Tensor chunk_targets = targets.narrow(0, begin, n);
    HeadPass pass = head_forward(head, rows.narrow(0, begin, n));
    if (h.is_cuda()) {
      parts.push_back(token_losses_cuda(pass.logits, chunk_targets, head.classes(), /*with_gradient=*/false, 0.0));
    } else {
      const at::Tensor& z = pass.logits;
      parts.push_back(losses_cpu(z, z.logsumexp(1, true), chunk_targets_cpu(chunk_targets)).squeeze(1));
    }
  }
  return at::cat(parts);
}

}  // namespace qat
