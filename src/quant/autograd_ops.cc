#include "src/quant/autograd_ops.h"

#include <torch/torch.h>

#include <optional>

#include "kernels/common/error.h"
#include "kernels/gemm/code_matmul.h"
#include "kernels/quant/encode.h"
#include "kernels/quant/fake_quant.h"
#include "kernels/quant/round_rows.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;
// A function's arguments must be defined tensors; one that may be missing is an optional.
using OptionalTensor = std::optional<at::Tensor>;

OptionalTensor optional(const at::Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }

void save_rounding(AutogradContext* ctx, const GradientRounding& rounding) {
  ctx->saved_data["bits"] = static_cast<std::int64_t>(rounding.width.bits());
  ctx->saved_data["stochastic"] = rounding.stochastic;
  ctx->saved_data["seed"] = static_cast<std::int64_t>(rounding.key.seed);
  ctx->saved_data["stream"] = static_cast<std::int64_t>(rounding.key.stream);
}

GradientRounding saved_rounding(AutogradContext* ctx) {
  return {.width = BitWidth(static_cast<int>(ctx->saved_data["bits"].toInt())),
          .stochastic = ctx->saved_data["stochastic"].toBool(),
          .key = {.seed = static_cast<std::uint64_t>(ctx->saved_data["seed"].toInt()),
                  .stream = static_cast<std::uint64_t>(ctx->saved_data["stream"].toInt())}};
}

// Scales, weight and bias gradients are fp32 whatever the activations are.
at::TensorOptions scales_options(const at::Tensor& g) { return g.options().dtype(at::kFloat); }

at::Tensor rows_of(const at::Tensor& t) { return t.reshape({-1, t.size(-1)}).contiguous(); }

class CodeLinear : public torch::autograd::Function<CodeLinear> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& w, const OptionalTensor& bias,
                          const Coded& xq, const Coded& wq, const GradientRounding& rounding) {
    auto shape = x.sizes().vec();
    shape.back() = w.size(0);
    at::Tensor y = at::empty(shape, x.options());
    kernels::code_matmul(exec_for(y), const_codes(xq.codes), const_codes(wq.codes),
                         {.row_scales = const_span(xq.scales),
                          .col_scales = const_span(wq.scales),
                          .bias = bias ? const_span(*bias) : std::span<const float>{}},
                         float_matrix(y));
    save_rounding(ctx, rounding);
    ctx->saved_data["has_bias"] = bias.has_value();
    const bool on_codes = backward_on_codes(rounding);
    // Without gradients nobody will ask for the transposed copies.
    if (on_codes && xq.codes_transposed.defined() && wq.codes_transposed.defined()) {
      ctx->save_for_backward({xq.codes_transposed, xq.scales, wq.codes_transposed, wq.scales});
    } else if (!on_codes) {
      ctx->save_for_backward({xq.codes, xq.scales, wq.codes, wq.scales});
    }
    ctx->saved_data["x_shape"] = x.sizes().vec();
    return y;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    QAT_CHECK(saved.size() == 4, "backward on codes needs transposed copies from forward");
    const GradientRounding rounding = saved_rounding(ctx);
    const at::Tensor g = rows_of(grads[0]);
    const bool on_codes = backward_on_codes(rounding);
    at::Tensor dx, dw, db;
    if (ctx->needs_input_grad(0)) {
      dx = on_codes ? input_gradient_codes(g, saved[2], saved[3], rounding)
                    : at::mm(rounding.width.is_full() ? g : fake_quant_gradient(g, rounding, Draw::kInput),
                             decode(saved[2], saved[3], g.scalar_type()));
      dx = dx.reshape(ctx->saved_data["x_shape"].toIntVector());
    }
    if (ctx->needs_input_grad(1)) {
      dw = on_codes ? weight_gradient_codes(g, saved[0], saved[1], rounding)
                    : at::mm((rounding.width.is_full() ? g : fake_quant_gradient(g, rounding, Draw::kWeight)).t(),
                             decode(saved[0], saved[1], g.scalar_type()));
    }
    if (ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2)) db = g.sum(0, /*keepdim=*/false, at::kFloat);
    return {dx, dw, db, {}, {}, {}};
  }

 private:
  static at::Tensor input_gradient_codes(const at::Tensor& g, const at::Tensor& qw_t, const at::Tensor& sw,
                                         const GradientRounding& rounding) {
    const bool one_scale = sw.numel() == 1;
    at::Tensor codes_g = at::empty(g.sizes(), g.options().dtype(at::kChar));
    at::Tensor scales = at::empty({g.size(0)}, scales_options(g));
    kernels::encode_scaled_rows(
        exec_for(g), const_float_matrix(g),
        {.row_factors = {}, .col_factors = one_scale ? std::span<const float>{} : const_span(sw)},
        gradient_options(rounding, Draw::kInput), {codes(codes_g), {}}, span_of(scales));
    at::Tensor dx = at::empty({g.size(0), qw_t.size(0)}, g.options());
    const at::Tensor one = at::ones({1}, scales_options(g));
    kernels::code_matmul(exec_for(g), const_codes(codes_g), const_codes(qw_t),
                         {.row_scales = const_span(scales), .col_scales = const_span(one_scale ? sw : one)},
                         float_matrix(dx));
    return dx;
  }

  static at::Tensor weight_gradient_codes(const at::Tensor& g, const at::Tensor& qx_t, const at::Tensor& sx,
                                          const GradientRounding& rounding) {
    const bool one_scale = sx.numel() == 1;
    at::Tensor codes_g = at::empty(g.sizes(), g.options().dtype(at::kChar));
    at::Tensor codes_g_t = at::empty({g.size(1), g.size(0)}, codes_g.options());
    at::Tensor scales = at::empty({g.size(1)}, scales_options(g));
    kernels::encode_scaled_cols(
        exec_for(g), const_float_matrix(g),
        {.row_factors = one_scale ? std::span<const float>{} : const_span(sx), .col_factors = {}},
        gradient_options(rounding, Draw::kWeight), {codes(codes_g), codes(codes_g_t)}, span_of(scales));
    at::Tensor dw = at::empty({g.size(1), qx_t.size(0)}, scales_options(g));
    const at::Tensor one = at::ones({1}, scales_options(g));
    kernels::code_matmul(exec_for(g), const_codes(codes_g_t), const_codes(qx_t),
                         {.row_scales = const_span(scales), .col_scales = const_span(one_scale ? sx : one)},
                         float_matrix(dw));
    return dw;
  }
};

class FloatLinear : public torch::autograd::Function<FloatLinear> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& w, const OptionalTensor& bias,
                          const GradientRounding& rounding) {
    save_rounding(ctx, rounding);
    ctx->saved_data["has_bias"] = bias.has_value();
    ctx->save_for_backward({x, w});
    return at::linear(x, w, bias ? *bias : at::Tensor());
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const GradientRounding rounding = saved_rounding(ctx);
    const at::Tensor g = rows_of(grads[0]);
    at::Tensor dx, dw, db;
    const auto rounded = [&](Draw draw) {
      return rounding.width.is_full() ? g : fake_quant_gradient(g, rounding, draw);
    };
    if (ctx->needs_input_grad(0)) dx = at::mm(rounded(Draw::kInput), saved[1]).reshape(saved[0].sizes());
    if (ctx->needs_input_grad(1)) dw = at::mm(rounded(Draw::kWeight).t(), saved[0].reshape({-1, saved[0].size(-1)}));
    if (ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2)) db = g.sum(0);
    return {dx, dw, db, {}};
  }
};

class StraightThrough : public torch::autograd::Function<StraightThrough> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& /*x*/, const Variable& quantized, double grad_clip) {
    ctx->saved_data["clip"] = grad_clip;
    return quantized.alias();
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const double clip = ctx->saved_data["clip"].toDouble();
    return {clip > 0 ? at::clamp(grads[0], -clip, clip) : grads[0], {}, {}};
  }
};

class QuantizeGradientRows : public torch::autograd::Function<QuantizeGradientRows> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& x, const GradientRounding& rounding) {
    save_rounding(ctx, rounding);
    return x.alias();
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    return {fake_quant_gradient(rows_of(grads[0]), saved_rounding(ctx), Draw::kInput).reshape(grads[0].sizes()), {}};
  }
};

}  // namespace

at::Tensor fake_quant_gradient(const at::Tensor& gradient, const GradientRounding& rounding, Draw draw) {
  if (draw == Draw::kInput && backward_on_codes(rounding)) {  // the same values by way of codes: fewer passes
    at::Tensor rows = at::empty(gradient.sizes(), gradient.options().dtype(at::kChar));
    at::Tensor scales = at::empty({gradient.size(0)}, scales_options(gradient));
    kernels::encode_rows(exec_for(gradient), const_float_matrix(gradient), gradient_options(rounding, draw),
                         {codes(rows), {}}, span_of(scales));
    return decode(rows, scales, gradient.scalar_type());
  }
  const at::Tensor g = gradient.to(at::kFloat);
  const kernels::Axis axis = draw == Draw::kInput ? kernels::Axis::kRow : kernels::Axis::kCol;
  const auto groups = kernels::groups_of(const_matrix(g), axis);
  at::Tensor lo = at::empty({groups}, g.options()), hi = at::empty({groups}, g.options());
  kernels::min_max(exec_for(g), const_matrix(g), axis, span_of(lo), span_of(hi));
  at::Tensor scales = at::empty_like(lo);
  kernels::symmetric_scales(exec_for(g), const_span(lo), const_span(hi), rounding.width, kernels::kGradientAmaxFloor,
                            span_of(scales));
  at::Tensor y = at::empty_like(g);
  kernels::fake_quant_symmetric(exec_for(g), const_matrix(g), axis, const_span(scales),
                                gradient_options(rounding, draw), matrix(y));
  return y.to(gradient.scalar_type());
}

void round_gradient_(at::Tensor& g, const GradientRounding& rounding) {
  if (rounding.width.is_full()) return;
  if (backward_on_codes(rounding)) {
    kernels::round_rows(exec_for(g), matrix(g), gradient_options(rounding, Draw::kInput));
  } else {
    g.copy_(fake_quant_gradient(g, rounding, Draw::kInput));
  }
}

at::Tensor decode(const at::Tensor& codes, const at::Tensor& scales, at::ScalarType dtype) {
  at::Tensor values = at::empty(codes.sizes(), scales.options().dtype(dtype));
  kernels::decode_rows(exec_for(values), const_codes(codes), const_span(scales), float_matrix(values));
  return values;
}

at::Tensor code_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias, const Coded& xq,
                       const Coded& wq, const GradientRounding& rounding) {
  return CodeLinear::apply(x, w, optional(bias), xq, wq, rounding);
}

at::Tensor float_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias,
                        const GradientRounding& rounding) {
  if (rounding.width.is_full()) return at::linear(x, w, bias);
  return FloatLinear::apply(x, w, optional(bias), rounding);
}

at::Tensor straight_through(const at::Tensor& x, const at::Tensor& quantized, double grad_clip) {
  return StraightThrough::apply(x, quantized, grad_clip);
}

at::Tensor quantize_gradient_rows(const at::Tensor& x, const GradientRounding& rounding) {
  if (rounding.width.is_full()) return x;
  return QuantizeGradientRows::apply(x, rounding);
}

}  // namespace qat
