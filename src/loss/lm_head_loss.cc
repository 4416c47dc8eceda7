#include "src/loss/lm_head_loss.h"

#include <torch/torch.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "kernels/loss/softmax_cross_entropy.h"
#include "src/quant/torch_view.h"

// Shape letters: M tokens, n of them in a chunk, V vocabulary, d width.

namespace qat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;
using OptionalTensor = std::optional<at::Tensor>;

OptionalTensor optional(const at::Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }

std::int64_t rows_per_chunk(const at::Tensor& h, const LmHead& head, std::int64_t chunk_bytes) {
  return head_chunk_rows(h.size(0), head.rows() * static_cast<std::int64_t>(h.element_size()), h.is_cuda(),
                         chunk_bytes);
}

// Sum of the chunk's losses, in double; logits become gradients of the mean over `rows`.
at::Tensor chunk_loss_cpu(at::Tensor& logits, const at::Tensor& targets, bool with_gradient, std::int64_t rows) {
  const at::Tensor index = targets.unsqueeze(1);
  const at::Tensor lse = logits.logsumexp(1, /*keepdim=*/true);
  at::Tensor sum = (lse - logits.gather(1, index)).sum(at::kDouble);
  if (!with_gradient) return sum;
  logits.sub_(lse).exp_();  // softmax
  logits.scatter_add_(1, index, at::full(index.sizes(), -1.0, logits.options()));
  logits.mul_(1.0 / static_cast<double>(rows));
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

class LmHeadCrossEntropy : public torch::autograd::Function<LmHeadCrossEntropy> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& h, const Variable& weight, const OptionalTensor& lora_a,
                          const OptionalTensor& lora_b, const LmHead& head, const at::Tensor& targets,
                          std::int64_t chunk_bytes) {
    const std::int64_t rows = h.size(0), classes = head.classes();
    const auto sum_for = [&](const Variable& parameter, std::int64_t sum_rows) {
      return parameter.requires_grad() ? at::zeros({sum_rows, parameter.size(1)}, h.options().dtype(at::kFloat))
                                       : at::Tensor();
    };
    const bool in_place = weight.requires_grad() && head.weight_place.defined();
    HeadGradients sums{.weight = in_place ? head.weight_place.zero_() : sum_for(weight, head.rows())};
    if (lora_a) sums.lora_a = sum_for(*lora_a, lora_a->size(0)), sums.lora_b = sum_for(*lora_b, head.rows());
    at::Tensor dh = h.requires_grad() ? at::empty_like(h) : at::Tensor();
    const bool with_gradient = dh.defined() || sums.weight.defined() || sums.lora_a.defined();
    at::Tensor loss = at::zeros({}, h.options().dtype(at::kDouble));
    const std::int64_t step = rows_per_chunk(h, head, chunk_bytes);
    for (std::int64_t begin = 0; begin < rows; begin += step) {
      const std::int64_t n = std::min(step, rows - begin);
      const at::Tensor chunk_targets = targets.narrow(0, begin, n);
      HeadPass pass = head_forward(head, h.narrow(0, begin, n));
      loss += h.is_cuda() ? token_losses_cuda(pass.logits, chunk_targets, classes, with_gradient,
                                              1.0 / static_cast<double>(rows))
                                .sum(at::kDouble)
                          : chunk_loss_cpu(pass.logits, chunk_targets, with_gradient, rows);
      if (with_gradient)
        head_backward(head, pass, pass.logits, dh.defined() ? dh.narrow(0, begin, n) : at::Tensor(), sums);
    }
    const auto real_rows = [&](const at::Tensor& t) { return t.defined() ? t.narrow(0, 0, classes) : t; };
    ctx->save_for_backward({dh, real_rows(sums.weight), sums.lora_a, real_rows(sums.lora_b)});
    ctx->saved_data["in_place"] = in_place;
    return (loss / static_cast<double>(rows)).to(at::kFloat);
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    tensor_list out = ctx->get_saved_variables();
    const bool in_place = ctx->saved_data["in_place"].toBool();
    for (std::size_t i = 0; i < out.size(); ++i) {
      at::Tensor& t = out[i];
      if (!t.defined()) continue;
      const at::Tensor factor = grads[0].to(t.scalar_type());
      // _foreach: a product with one number on the device that moves vectors, as plain multiplication does not.
      if (i == 1 && in_place) {
        at::_foreach_mul_({t}, factor);  // the weight's gradient stays where it was wanted
      } else {
        t = at::_foreach_mul({t}, factor)[0];
      }
    }
    out.insert(out.end(), 3, at::Tensor());
    return out;
  }
};

}  // namespace

at::Tensor lm_head_cross_entropy(const at::Tensor& h, const LmHead& head, const at::Tensor& targets,
                                 std::int64_t chunk_bytes) {
  return LmHeadCrossEntropy::apply(h.contiguous(), head.weight, optional(head.lora_a), optional(head.lora_b), head,
                                   targets.contiguous(), chunk_bytes);
}

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets) {
  return at::nll_loss(at::log_softmax(logits, 1), targets);
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
      parts.push_back((z.logsumexp(1, true) - z.gather(1, chunk_targets.unsqueeze(1))).squeeze(1));
    }
  }
  return at::cat(parts);
}

}  // namespace qat
