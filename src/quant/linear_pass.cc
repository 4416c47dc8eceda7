#include "src/quant/linear_pass.h"

#include <torch/torch.h>

#include "src/quant/kept_for_backward.h"

namespace qat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;

struct Kept {
  LinearPass pass;
  LinearSaved saved;
  bool raw_apart = false;
};

class QuantizedLinear : public torch::autograd::Function<QuantizedLinear> {
 public:
  // others: the pass's parameters, and behind them the raw input if it is apart.
  static Variable forward(AutogradContext* ctx, const Variable& x, at::TensorList /*others*/,
                          const LinearOperand& input, const LinearPass& pass, bool raw_apart, bool train) {
    Kept kept{.pass = pass, .saved = {}, .raw_apart = raw_apart};
    const at::Tensor y = linear_forward(*pass.prepared, input, x.scalar_type(), train ? &kept.saved : nullptr);
    auto shape = x.sizes().vec();
    ctx->saved_data["x_shape"] = shape;
    if (train) keep(ctx, std::move(kept));
    shape.back() = y.size(1);
    return y.view(shape);
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const Kept kept = take<Kept>(ctx);
    const LinearPass& pass = kept.pass;
    const at::Tensor g = grads[0].reshape({-1, grads[0].size(-1)}).contiguous();
    const LinearGradients gradients = linear_backward(pass, kept.saved, {.parts = {g}},
                                                      {.input = ctx->needs_input_grad(0),
                                                       .weight = ctx->needs_input_grad(1),
                                                       .bias = pass.bias.tensor.defined() && ctx->needs_input_grad(2),
                                                       .raw_apart = kept.raw_apart});
    const auto as_x = [&](const at::Tensor& gradient) {
      return gradient.defined() ? gradient.view(ctx->saved_data["x_shape"].toIntVector()) : gradient;
    };
    tensor_list out = {as_x(gradients.input)};
    append_gradients(pass, gradients, out);
    if (kept.raw_apart) out.push_back(as_x(gradients.raw));
    out.insert(out.end(), 4, at::Tensor());
    return out;
  }
};

}  // namespace

std::vector<at::Tensor> LinearPass::parameters() const {
  std::vector<at::Tensor> all;
  for (const PassParameter* parameter : {&weight, &bias, &lora_a, &lora_b})
    if (parameter->tensor.defined()) all.push_back(parameter->tensor);
  return all;
}

LinearGradients linear_backward(const LinearPass& pass, const LinearSaved& saved, OutputGradient gradient,
                                const LinearNeeds& needs) {
  GradientSink* sink = pass.sink;
  const auto place = [&](const PassParameter& parameter, bool wanted) {
    return sink != nullptr && wanted && parameter.tensor.defined() ? sink->open(parameter.id) : at::Tensor();
  };
  const LinearPlaces places{.at = {.weight = place(pass.weight, needs.weight && !pass.weight_has_other_uses),
                                   .bias = place(pass.bias, needs.bias),
                                   .lora_a = place(pass.lora_a, needs.adapter),
                                   .lora_b = place(pass.lora_b, needs.adapter)}};
  LinearGradients gradients = linear_backward(*pass.prepared, saved, std::move(gradient), pass.rounding, needs, places);
  const auto written = [&](const PassParameter& parameter, const at::Tensor& where) {
    if (where.defined()) sink->written(parameter.id);
  };
  written(pass.weight, places.at.weight), written(pass.bias, places.at.bias);
  written(pass.lora_a, places.at.lora_a), written(pass.lora_b, places.at.lora_b);
  return gradients;
}

void append_gradients(const LinearPass& pass, const LinearGradients& gradients, std::vector<at::Tensor>& out) {
  const auto append = [&](const PassParameter& parameter, const at::Tensor& gradient) {
    if (parameter.tensor.defined()) out.push_back(gradient);
  };
  append(pass.weight, gradients.weight), append(pass.bias, gradients.bias);
  append(pass.lora_a, gradients.lora_a), append(pass.lora_b, gradients.lora_b);
}

at::Tensor quantized_linear(const at::Tensor& x, const LinearOperand& input, const LinearPass& pass,
                            const at::Tensor& raw) {
  std::vector<at::Tensor> others = pass.parameters();
  if (raw.defined()) others.push_back(raw);
  return QuantizedLinear::apply(x, at::TensorList(others), input, pass, raw.defined(), at::GradMode::is_enabled());
}

}  // namespace qat
