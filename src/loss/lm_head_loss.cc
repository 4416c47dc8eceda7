#include "src/loss/lm_head_loss.h"

#include <torch/torch.h>

#include <algorithm>
#include <vector>

namespace qat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;

std::int64_t rows_per_chunk(std::int64_t vocab, std::int64_t chunk_bytes) {
  return std::max<std::int64_t>(1, chunk_bytes / (vocab * static_cast<std::int64_t>(sizeof(float))));
}

class LmHeadCrossEntropy : public torch::autograd::Function<LmHeadCrossEntropy> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& h, const Variable& w, const Variable& targets,
                          std::int64_t chunk_bytes) {
    const std::int64_t rows = h.size(0);
    const bool want_dh = h.requires_grad(), want_dw = w.requires_grad();
    at::Tensor dh = want_dh ? at::empty_like(h) : at::Tensor();
    at::Tensor dw = want_dw ? at::zeros_like(w) : at::Tensor();
    double loss = 0.0;
    const std::int64_t step = rows_per_chunk(w.size(0), chunk_bytes);
    for (std::int64_t begin = 0; begin < rows; begin += step) {
      const std::int64_t n = std::min(step, rows - begin);
      const at::Tensor hc = h.narrow(0, begin, n);
      const at::Tensor index = targets.narrow(0, begin, n).unsqueeze(1);
      at::Tensor logits = at::mm(hc, w.t());
      const at::Tensor lse = logits.logsumexp(1, /*keepdim=*/true);
      loss += (lse - logits.gather(1, index)).sum(at::kDouble).item<double>();
      if (!want_dh && !want_dw) continue;
      at::Tensor& grad = logits.sub_(lse).exp_();  // softmax
      grad.scatter_add_(1, index, at::full({n, 1}, -1.0, h.options()));
      grad.mul_(1.0 / static_cast<double>(rows));
      if (want_dh) {
        at::Tensor out = dh.narrow(0, begin, n);
        at::mm_out(out, grad, w);
      }
      if (want_dw) dw.addmm_(grad.t(), hc);
    }
    ctx->save_for_backward({dh, dw});
    return at::full({}, loss / static_cast<double>(rows), h.options());
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto scaled = [&](const at::Tensor& t) { return t.defined() ? t * grads[0] : at::Tensor(); };
    return {scaled(saved[0]), scaled(saved[1]), {}, {}};
  }
};

}  // namespace

at::Tensor lm_head_cross_entropy(const at::Tensor& h, const at::Tensor& w, const at::Tensor& targets,
                                 std::int64_t chunk_bytes) {
  return LmHeadCrossEntropy::apply(h.contiguous(), w, targets, chunk_bytes);
}

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets) {
  return at::nll_loss(at::log_softmax(logits, 1), targets);
}

at::Tensor lm_head_token_nll(const at::Tensor& h, const at::Tensor& w, const at::Tensor& targets,
                             std::int64_t chunk_bytes) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> parts;
  const std::int64_t step = rows_per_chunk(w.size(0), chunk_bytes);
  for (std::int64_t begin = 0; begin < h.size(0); begin += step) {
    const std::int64_t n = std::min(step, h.size(0) - begin);
    const at::Tensor logits = at::mm(h.narrow(0, begin, n), w.t());
    parts.push_back(
        (logits.logsumexp(1, true) - logits.gather(1, targets.narrow(0, begin, n).unsqueeze(1))).squeeze(1));
  }
  return at::cat(parts);
}

}  // namespace qat
