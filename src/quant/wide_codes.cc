#include "src/quant/wide_codes.h"

#include <torch/torch.h>

#include <optional>

#include "src/quant/autograd_ops.h"

namespace qat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;

// a b^T of fp16 integers with fp32 sums.
at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  if (a.is_cuda()) return at::mm(a, b.t(), at::kFloat);
  return at::mm(a.to(at::kFloat), b.to(at::kFloat).t());
}

at::Tensor values(const WideCoded& coded, at::ScalarType dtype) {
  return (coded.codes.to(at::kFloat) * coded.scales.unsqueeze(1)).to(dtype);
}

struct Saved : torch::CustomClassHolder {
  WideCoded x, w;
  GradientRounding rounding;
};

class WideCodeLinear : public torch::autograd::Function<WideCodeLinear> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& w,
                          const std::optional<at::Tensor>& bias, const WideCoded& xq, const WideCoded& wq,
                          const GradientRounding& rounding) {
    at::Tensor y = product(xq.codes, wq.codes).mul_(xq.scales.unsqueeze(1)).mul_(wq.scales);
    if (bias) y.add_(*bias);
    auto saved = c10::make_intrusive<Saved>();
    saved->x = xq, saved->w = wq, saved->rounding = rounding;
    ctx->saved_data["saved"] = c10::IValue::make_capsule(std::move(saved));
    ctx->saved_data["has_bias"] = bias.has_value();
    auto shape = x.sizes().vec();
    shape.back() = w.size(0);
    return y.to(x.scalar_type()).view(shape);
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = c10::static_intrusive_pointer_cast<Saved>(ctx->saved_data["saved"].toCapsule());
    const at::Tensor g = grads[0].reshape({-1, grads[0].size(-1)}).contiguous();
    const GradientRounding& rounding = saved->rounding;
    const auto rounded = [&](Draw draw) {
      return rounding.width.is_full() ? g : fake_quant_gradient(g, rounding, draw);
    };
    const bool has_bias = ctx->saved_data["has_bias"].toBool();
    at::Tensor dx, dw, db;
    if (ctx->needs_input_grad(0)) {
      auto shape = grads[0].sizes().vec();
      shape.back() = saved->w.codes.size(1);
      dx = at::mm(rounded(Draw::kInput), values(saved->w, g.scalar_type())).view(shape);
    }
    if (ctx->needs_input_grad(1)) {
      const at::Tensor gt = rounded(Draw::kWeight).t(), x = values(saved->x, g.scalar_type());
      dw = g.is_cuda() && g.scalar_type() != at::kFloat ? at::mm(gt, x, at::kFloat) : at::mm(gt, x);
    }
    if (has_bias && ctx->needs_input_grad(2)) db = g.sum(0, /*keepdim=*/false, at::kFloat);
    return {dx, dw, db, {}, {}, {}};
  }
};

}  // namespace

at::Tensor wide_code_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias, const WideCoded& xq,
                            const WideCoded& wq, const GradientRounding& rounding) {
  return WideCodeLinear::apply(x, w, bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt, xq, wq, rounding);
}

}  // namespace qat
