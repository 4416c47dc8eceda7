// Products of a quantized linear layer without an adapter, one for each form of its operands, and what else the layer's
// formula is written with: for tests that put it together from its parts.
#pragma once

#include <torch/torch.h>

#include <memory>

#include "src/quant/linear_pass.h"

namespace qat::test {

inline at::Tensor linear_product(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias,
                                 const LinearOperand& xq, const LinearOperand& wq, const GradientRounding& rounding) {
  auto prepared = std::make_shared<PreparedLinear>();
  prepared->weight = wq;
  if (bias.defined()) prepared->bias = bias.detach();
  prepared->one = at::ones({1}, w.options().dtype(at::kFloat).requires_grad(false));
  LinearPass pass;
  pass.prepared = prepared;
  pass.rounding.base = rounding;
  pass.weight.tensor = w, pass.bias.tensor = bias;
  return quantized_linear(x, xq, pass);
}

// x: [..., K] and w: [N, K] carry the gradient; `xq` and `wq` are their codes, with transposed ones.
inline at::Tensor code_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias, const Coded& xq,
                              const Coded& wq, const GradientRounding& rounding) {
  Coded input = xq;
  if (!backward_on_codes(rounding)) input.codes_transposed.reset();
  return linear_product(x, w, bias, {.codes = input}, {.codes = wq}, rounding);
}
inline at::Tensor wide_code_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias,
                                   const WideCoded& xq, const WideCoded& wq, const GradientRounding& rounding) {
  return linear_product(x, w, bias, {.wide = xq}, {.wide = wq}, rounding);
}
// Of floats that stand on quantized values already (or on unquantized ones).
inline at::Tensor float_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias,
                               const GradientRounding& rounding) {
  return linear_product(x, w, bias, {.values = x.detach().reshape({-1, x.size(-1)})}, {.values = w.detach()}, rounding);
}

// Identity, whose gradient is clamped to +-clip (if it is > 0) and then rounded by rows.
class GradientShim : public torch::autograd::Function<GradientShim> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, double clip,
                            const GradientRounding& rounding) {
    ctx->saved_data["clip"] = clip;
    ctx->saved_data["bits"] = static_cast<std::int64_t>(rounding.width.bits());
    ctx->saved_data["stochastic"] = rounding.stochastic;
    ctx->saved_data["seed"] = static_cast<std::int64_t>(rounding.key.seed);
    ctx->saved_data["stream"] = static_cast<std::int64_t>(rounding.key.stream);
    return x.alias();
  }
  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* ctx,
                                               torch::autograd::tensor_list grads) {
    const double clip = ctx->saved_data["clip"].toDouble();
    const GradientRounding rounding{.width = BitWidth(static_cast<int>(ctx->saved_data["bits"].toInt())),
                                    .stochastic = ctx->saved_data["stochastic"].toBool(),
                                    .key = {.seed = static_cast<std::uint64_t>(ctx->saved_data["seed"].toInt()),
                                            .stream = static_cast<std::uint64_t>(ctx->saved_data["stream"].toInt())}};
    at::Tensor g = clip > 0 ? at::clamp(grads[0], -clip, clip) : grads[0].clone();
    g = g.contiguous();
    round_gradient_(g, rounding);
    return {g, {}, {}};
  }
};

inline at::Tensor clamp_gradient(const at::Tensor& x, double clip) {
  return GradientShim::apply(x, clip, GradientRounding{});
}
inline at::Tensor quantize_gradient_rows(const at::Tensor& x, const GradientRounding& rounding) {
  return GradientShim::apply(x, 0.0, rounding);
}

}  // namespace qat::test
