#include "src/loss/span_loss.h"

#include <ATen/ATen.h>

#include <limits>

namespace qat {
namespace {

constexpr std::int64_t kEnds = 2;  // of an answer

// log softmax over the places that are looked at; -infinity at the others. fp32 [B, 2, T].
at::Tensor log_probabilities(const at::Tensor& logits, const at::Tensor& masked) {
  return at::log_softmax(logits.masked_fill(masked, -std::numeric_limits<double>::infinity()), 2);
}

// The answer's two tokens as indices of places: [B, 2, 1].
at::Tensor ends_of(const at::Tensor& targets) { return targets.narrow(1, 0, kEnds).unsqueeze(2); }

at::Tensor mean_of_ends(const at::Tensor& log_probability, const at::Tensor& targets) {
  return log_probability.gather(2, ends_of(targets)).sum({1, 2}).div_(-static_cast<double>(kEnds));
}

// By a tensor: a GPU multiplies by a number's inverse, which is not quite the mean.
at::Tensor divided(const at::Tensor& sum, double divisor) {
  return (sum / at::full({}, divisor, sum.options())).to(at::kFloat);
}

}  // namespace

at::Tensor span_logits(const at::Tensor& h, const SpanHead& head) {
  const at::NoGradGuard no_grad;
  const at::Tensor rows = h.reshape({-1, h.size(2)}).to(at::kFloat);
  return at::addmm(head.bias, rows, head.weight.t()).view({h.size(0), h.size(1), kEnds}).transpose(1, 2).contiguous();
}

at::Tensor masked_places(const at::Tensor& targets, std::int64_t places) {
  const at::Tensor place = at::arange(places, targets.options()).unsqueeze(0);  // [1, T]
  const at::Tensor in_context = place.ge(targets.narrow(1, 2, 1)).logical_and_(place.lt(targets.narrow(1, 3, 1)));
  return in_context.logical_or_(place.eq(0)).logical_not_().unsqueeze(1);
}

at::Tensor token_shares(const at::Tensor& targets, std::int64_t places) {
  const at::Tensor count = targets.narrow(1, 3, 1).clamp_min(1);                             // [B, 1]
  const at::Tensor is_token = at::arange(places, targets.options()).unsqueeze(0).lt(count);  // [B, T]
  return is_token.to(at::kFloat).div_(count).reshape({-1, 1});
}

LossOfSpans span_cross_entropy(const at::Tensor& logits, const at::Tensor& targets, const LossScale& scale) {
  const at::NoGradGuard no_grad;
  const double divisor = scale.divisor(logits.size(0));
  const at::Tensor masked = masked_places(targets, logits.size(2));
  const at::Tensor log_p = log_probabilities(logits, masked);
  const at::Tensor sum = mean_of_ends(log_p, targets).sum(at::kDouble);
  at::Tensor gradient = log_p.exp();
  const at::Tensor index = ends_of(targets);
  gradient.scatter_add_(2, index, at::full(index.sizes(), -1.0, gradient.options()));
  gradient.mul_(scale.weight / (divisor * static_cast<double>(kEnds)));
  return {.loss = divided(sum, divisor), .logits = gradient};
}

LossOfSpans span_distillation(const at::Tensor& student, const at::Tensor& teacher, const at::Tensor& targets,
                              double temperature, const LossScale& scale) {
  const at::NoGradGuard no_grad;
  const double divisor = scale.divisor(student.size(0));
  const at::Tensor masked = masked_places(targets, student.size(2));
  const at::Tensor log_q = log_probabilities(student / temperature, masked);
  const at::Tensor log_p = log_probabilities(teacher / temperature, masked);
  const at::Tensor p = log_p.exp();
  // At masked places both are -infinity, and their difference is none.
  const at::Tensor kl = (p * (log_p - log_q)).masked_fill_(masked, 0.0);
  const double square = temperature * temperature / static_cast<double>(kEnds);
  const at::Tensor sum = kl.sum(at::kDouble) * square;
  at::Tensor gradient = log_q.exp().sub_(p).mul_(scale.weight * square / (temperature * divisor));
  return {.loss = divided(sum, divisor), .logits = gradient};
}

SpanGradients span_backward(const at::Tensor& h, const SpanHead& head, const at::Tensor& d_logits) {
  const at::NoGradGuard no_grad;
  const at::Tensor rows = h.reshape({-1, h.size(2)}).to(at::kFloat);
  const at::Tensor dz = d_logits.transpose(1, 2).reshape({-1, kEnds});  // [B * T, 2]
  return {.hidden = at::mm(dz, head.weight).to(h.scalar_type()).view(h.sizes()),
          .weight = at::mm(dz.t(), rows),
          .bias = dz.sum(0)};
}

at::Tensor span_nll(const at::Tensor& logits, const at::Tensor& targets) {
  const at::NoGradGuard no_grad;
  return mean_of_ends(log_probabilities(logits, masked_places(targets, logits.size(2))), targets);
}

}  // namespace qat
