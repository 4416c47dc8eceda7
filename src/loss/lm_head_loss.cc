#include "src/loss/lm_head_loss.h"

#include <torch/torch.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "kernels/loss/softmax_cross_entropy.h"

// Shape letters: M tokens, V vocabulary, d width.

namespace qat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;

// Rows whose logits fit; a power of two on a GPU, where odd sizes make slower products.
std::int64_t rows_per_chunk(const at::Tensor& h, const at::Tensor& head, std::int64_t chunk_bytes) {
  const bool cuda = h.is_cuda();
  if (chunk_bytes == 0) chunk_bytes = std::int64_t{cuda ? 1024 : 32} << 20;
  const auto rows = static_cast<std::uint64_t>(
      std::max<std::int64_t>(1, chunk_bytes / (head.size(0) * static_cast<std::int64_t>(h.element_size()))));
  return static_cast<std::int64_t>(cuda ? std::bit_floor(rows) : rows);
}

struct Chunk {
  at::Tensor h;        // [n, d]
  at::Tensor targets;  // [n]
  at::Tensor logits;   // [n, V]; afterwards their gradient, if wanted
};

// Sum of the chunk's losses, in double, on the chunk's device; logits become gradients of the mean over `rows`.
at::Tensor chunk_loss_cpu(Chunk& chunk, bool with_gradient, std::int64_t rows) {
  const at::Tensor index = chunk.targets.unsqueeze(1);
  const at::Tensor lse = chunk.logits.logsumexp(1, /*keepdim=*/true);
  at::Tensor sum = (lse - chunk.logits.gather(1, index)).sum(at::kDouble);
  if (!with_gradient) return sum;
  chunk.logits.sub_(lse).exp_();  // softmax
  chunk.logits.scatter_add_(1, index, at::full({chunk.h.size(0), 1}, -1.0, chunk.h.options()));
  chunk.logits.mul_(1.0 / static_cast<double>(rows));
  return sum;
}

at::Tensor token_losses_cuda(const Chunk& chunk, std::int64_t classes, bool with_gradient, double gradient_scale) {
  at::Tensor losses = at::empty({chunk.h.size(0)}, chunk.h.options().dtype(at::kFloat));
  const DType dtype = chunk.logits.scalar_type() == at::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
  const std::int64_t cols = chunk.logits.size(1);
  kernels::softmax_cross_entropy(
      {.device = Device::kCuda}, {chunk.logits.data_ptr(), chunk.logits.size(0), cols, cols, dtype}, classes,
      {chunk.targets.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(chunk.targets.numel())}, with_gradient,
      static_cast<float>(gradient_scale), {losses.mutable_data_ptr<float>(), static_cast<std::size_t>(losses.numel())});
  return losses;
}

// dw += grad^T h in fp32, whatever the operands' dtype.
void add_weight_gradient(at::Tensor& dw, const at::Tensor& grad, const at::Tensor& h) {
  if (h.scalar_type() == at::kFloat) {
    dw.addmm_(grad.t(), h);
  } else {
    at::addmm_out(dw, dw, grad.t(), h, at::kFloat);
  }
}

class LmHeadCrossEntropy : public torch::autograd::Function<LmHeadCrossEntropy> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& h, const Variable& w, const at::Tensor& head,
                          const at::Tensor& targets, std::int64_t chunk_bytes) {
    const std::int64_t rows = h.size(0), classes = w.size(0);
    const bool want_dh = h.requires_grad(), want_dw = w.requires_grad(), with_gradient = want_dh || want_dw;
    const auto floats = h.options().dtype(at::kFloat);
    at::Tensor dh = want_dh ? at::empty_like(h) : at::Tensor();
    at::Tensor dw = want_dw ? at::zeros(head.sizes(), floats) : at::Tensor();
    at::Tensor loss = at::zeros({}, h.options().dtype(at::kDouble));
    const std::int64_t step = rows_per_chunk(h, head, chunk_bytes);
    for (std::int64_t begin = 0; begin < rows; begin += step) {
      const std::int64_t n = std::min(step, rows - begin);
      Chunk chunk{.h = h.narrow(0, begin, n), .targets = targets.narrow(0, begin, n), .logits = {}};
      chunk.logits = at::mm(chunk.h, head.t());
      loss += h.is_cuda()
                  ? token_losses_cuda(chunk, classes, with_gradient, 1.0 / static_cast<double>(rows)).sum(at::kDouble)
                  : chunk_loss_cpu(chunk, with_gradient, rows);
      if (want_dh) {
        at::Tensor out = dh.narrow(0, begin, n);
        at::mm_out(out, chunk.logits, head);
      }
      if (want_dw) add_weight_gradient(dw, chunk.logits, chunk.h);
    }
    ctx->save_for_backward({dh, want_dw ? dw.narrow(0, 0, classes) : dw});
    return (loss / static_cast<double>(rows)).to(at::kFloat);
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto scaled = [&](const at::Tensor& t) {
      return t.defined() ? t * grads[0].to(t.scalar_type()) : at::Tensor();
    };
    return {scaled(saved[0]), scaled(saved[1]), {}, {}, {}};
  }
};

}  // namespace

at::Tensor padded_head(const at::Tensor& w, at::ScalarType dtype) {
  const std::int64_t rows = (w.size(0) + kHeadRowMultiple - 1) / kHeadRowMultiple * kHeadRowMultiple;
  at::Tensor padded = at::zeros({rows, w.size(1)}, w.options().dtype(dtype).requires_grad(false));
  padded.narrow(0, 0, w.size(0)).copy_(w);
  return padded;
}

at::Tensor lm_head_cross_entropy(const at::Tensor& h, const at::Tensor& w, const at::Tensor& head,
                                 const at::Tensor& targets, std::int64_t chunk_bytes) {
  return LmHeadCrossEntropy::apply(h.contiguous(), w, head, targets.contiguous(), chunk_bytes);
}

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets) {
  return at::nll_loss(at::log_softmax(logits, 1), targets);
}

at::Tensor lm_head_token_nll(const at::Tensor& h, const at::Tensor& head, std::int64_t classes,
                             const at::Tensor& targets, std::int64_t chunk_bytes) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> parts;
  const std::int64_t step = rows_per_chunk(h, head, chunk_bytes);
  for (std::int64_t begin = 0; begin < h.size(0); begin += step) {
    const std::int64_t n = std::min(step, h.size(0) - begin);
    Chunk chunk{.h = h.narrow(0, begin, n), .targets = targets.narrow(0, begin, n), .logits = {}};
    chunk.logits = at::mm(chunk.h, head.t());
    if (h.is_cuda()) {
      parts.push_back(token_losses_cuda(chunk, classes, /*with_gradient=*/false, 0.0));
      continue;
    }
    const at::Tensor real = chunk.logits.narrow(1, 0, classes);
    parts.push_back((real.logsumexp(1, true) - real.gather(1, chunk.targets.unsqueeze(1))).squeeze(1));
  }
  return at::cat(parts);
}

}  // namespace qat
