#include "src/model/fused_block.h"

#include <torch/torch.h>

#include <initializer_list>
#include <optional>

#include "kernels/activation/dropout.h"
#include "kernels/activation/gelu.h"
#include "kernels/common/error.h"
#include "kernels/norm/residual_norm.h"
#include "src/model/dropout.h"
#include "src/model/traced.h"
#include "src/quant/kept_for_backward.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;
using OptionalTensor = std::optional<at::Tensor>;

OptionalTensor optional(const at::Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }

struct NormSaved {
  at::Tensor residual, mean, rstd, weight;
};

kernels::CodesOut codes_out(const Coded& coded) { return {codes(coded.codes), codes(coded.codes_transposed)}; }

// Whether the layer's adapter reads the input as it is before it is encoded.
bool wants_raw(const LinearPass& next) { return next.prepared->adapter && next.prepared->adapter->raw_input; }

// Norm of x + delta as the input of `next`, or as values if next is null. sum: x + delta, undefined without a delta.
LinearOperand norm_forward(const at::Tensor& x, const at::Tensor& delta, const FusedNorm& norm, const LinearPass* next,
                           bool train, at::Tensor& sum, NormSaved& saved) {
  const std::int64_t rows = x.size(0);
  const auto floats = x.options().dtype(at::kFloat);
  saved.mean = at::empty({rows}, floats), saved.rstd = at::empty({rows}, floats);
  LinearOperand out;
  kernels::EncodeOptions options;
  const bool on_codes = next != nullptr && next->prepared->weight.is_coded();
  if (on_codes) {
    out.codes = empty_codes(x, {.transposed = train});
    options.width = next->activation;
    if (wants_raw(*next)) out.raw = at::empty_like(x);
  } else {
    out.values = at::empty_like(x);
  }
  if (delta.defined()) sum = at::empty_like(x);
  kernels::residual_norm(exec_for(x), const_float_matrix(x), const_float_matrix(delta),
                         {.weight = const_span(norm.weight), .bias = const_span(norm.bias)}, options,
                         {.residual = float_matrix(sum),
                          .normed = float_matrix(on_codes ? out.raw : out.values),
                          .codes = on_codes ? codes_out(out.codes) : kernels::CodesOut{},
                          .code_scales = span_of(out.codes.scales),
                          .mean = span_of(saved.mean),
                          .rstd = span_of(saved.rstd)});
  // Not the output itself: a function that keeps its own output keeps itself alive.
  saved.residual = delta.defined() ? sum.detach() : x;
  saved.weight = norm.weight;
  return out;
}

struct NormGradients {
  at::Tensor residual, weight, bias;
};

NormGradients norm_backward(const NormSaved& saved, const at::Tensor& dy, const at::Tensor& past) {
  NormGradients out{at::empty_like(saved.residual), at::empty_like(saved.weight), at::empty_like(saved.weight)};
  kernels::residual_norm_backward(exec_for(dy), const_float_matrix(dy),
                                  {.residual = const_float_matrix(saved.residual),
                                   .mean = const_span(saved.mean),
                                   .rstd = const_span(saved.rstd),
                                   .weight = const_span(saved.weight)},
                                  const_float_matrix(past), float_matrix(out.residual), span_of(out.weight),
                                  span_of(out.bias));
  return out;
}

LinearOperand encode_input(const at::Tensor& x, const LinearPass& next, bool train) {
  if (!next.prepared->weight.is_coded()) return {.values = x};
  LinearOperand out{.codes = empty_codes(x, {.transposed = train})};
  if (wants_raw(next)) out.raw = x;
  kernels::encode_rows(exec_for(x), const_float_matrix(x), {.width = next.activation}, codes_out(out.codes),
                       span_of(out.codes.scales));
  return out;
}

LinearOperand gelu_input(const at::Tensor& x, const LinearPass& next, CodeCopies copies) {
  if (!next.prepared->weight.is_coded()) {
    LinearOperand out{.values = at::empty_like(x)};
    kernels::gelu(exec_for(x), const_float_matrix(x), float_matrix(out.values));
    return out;
  }
  LinearOperand out{.codes = empty_codes(x, copies)};
  if (wants_raw(next)) out.raw = at::empty_like(x);
  kernels::gelu_encode(exec_for(x), const_float_matrix(x), {.width = next.activation}, codes_out(out.codes),
                       span_of(out.codes.scales), float_matrix(out.raw));
  return out;
}

void drop_(const at::Tensor& x, const BlockDropout& dropout, kernels::RngKey key) {
  if (dropout.p > 0.0)
    kernels::dropout(exec_for(x), const_float_matrix(x), static_cast<float>(dropout.p), key, float_matrix(x));
}

// x itself without dropout.
at::Tensor dropped(const at::Tensor& x, const BlockDropout& dropout, kernels::RngKey key) {
  return dropout.p > 0.0 ? qat::dropped(x, dropout.p, key) : x;
}

// Which of a layer's parameters want a gradient; they stand at `first` among the function's inputs.
LinearNeeds needs_of(AutogradContext* ctx, std::size_t first) {
  return {.weight = ctx->needs_input_grad(first), .bias = ctx->needs_input_grad(first + 1)};
}

struct FirstSaved {
  LinearPass c_attn;
  NormSaved norm;
  LinearSaved linear;
  bool has_delta = false;
};

class FirstHalfFunction : public torch::autograd::Function<FirstHalfFunction> {
 public:
  static tensor_list forward(AutogradContext* ctx, const Variable& x, const OptionalTensor& delta,
                             const Variable& norm_weight, const Variable& norm_bias, at::TensorList /*parameters*/,
                             const LinearPass& c_attn, bool train) {
    FirstSaved saved{.c_attn = c_attn, .has_delta = delta.has_value()};
    at::Tensor sum;
    const LinearOperand input = traced("ln_1", [&] {
      return norm_forward(x, delta ? *delta : at::Tensor(), {norm_weight, norm_bias}, &c_attn, train, sum, saved.norm);
    });
    const at::Tensor qkv = traced("attn.c_attn", [&] {
      return linear_forward(*c_attn.prepared, input, x.scalar_type(), train ? &saved.linear : nullptr);
    });
    if (train) keep(ctx, std::move(saved));
    const std::int64_t d = x.size(1);
    // The residual stream leaves through this function with or without a delta: its gradient then comes back here,
    // where the norm adds it to its own.
    return {qkv.narrow(1, 0, d), qkv.narrow(1, d, d), qkv.narrow(1, 2 * d, d), delta ? sum : x};
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const FirstSaved saved = take<FirstSaved>(ctx);
    const std::size_t first = saved.has_delta ? 4 : 3;  // inputs before the layer's parameters
    const LinearGradients linear =
        linear_backward(saved.c_attn, saved.linear, {.parts = {grads[0], grads[1], grads[2]}}, needs_of(ctx, first));
    const NormGradients norm = norm_backward(saved.norm, linear.input, grads[3]);
    tensor_list out = {norm.residual, saved.has_delta ? norm.residual : at::Tensor(), norm.weight, norm.bias};
    append_gradients(saved.c_attn, linear, out);
    out.insert(out.end(), 2, at::Tensor());
    return out;
  }
};

struct SecondSaved {
  FusedBlock block;
  LinearSaved proj_saved, fc_saved, mlp_saved;
  NormSaved norm;
  at::Tensor before_gelu;
  bool keep_gelu = true;  // else mlp_saved has no input yet when backward starts
};

class SecondHalfFunction : public torch::autograd::Function<SecondHalfFunction> {
 public:
  static tensor_list forward(AutogradContext* ctx, const Variable& residual, const Variable& attended,
                             const Variable& norm_weight, const Variable& norm_bias, at::TensorList /*parameters*/,
                             const FusedBlock& block, bool keep_gelu, bool train) {
    SecondSaved saved{.block = block, .keep_gelu = keep_gelu};
    const auto keep_in = [&](LinearSaved& where) { return train ? &where : nullptr; };
    const at::ScalarType dtype = residual.scalar_type();
    const at::Tensor added = traced("attn.c_proj", [&] {
      return linear_forward(*block.attn_proj.prepared, encode_input(attended, block.attn_proj, train), dtype,
                            keep_in(saved.proj_saved));
    });
    drop_(added, block.dropout, block.dropout.attn_out);
    at::Tensor sum;
    const LinearOperand normed = traced("ln_2", [&] {
      return norm_forward(residual, added, {norm_weight, norm_bias}, &block.c_fc, train, sum, saved.norm);
    });
    saved.before_gelu = traced(
        "mlp.c_fc", [&] { return linear_forward(*block.c_fc.prepared, normed, dtype, keep_in(saved.fc_saved)); });
    const LinearOperand active = traced(
        "gelu", [&] { return gelu_input(saved.before_gelu, block.mlp_proj, {.transposed = train && keep_gelu}); });
    const at::Tensor delta = traced("mlp.c_proj", [&] {
      return linear_forward(*block.mlp_proj.prepared, active, dtype, keep_in(saved.mlp_saved));
    });
    drop_(delta, block.dropout, block.dropout.mlp_out);
    if (!keep_gelu) saved.mlp_saved.input = {};
    if (train) keep(ctx, std::move(saved));
    return {sum, delta};
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    SecondSaved saved = take<SecondSaved>(ctx);
    const FusedBlock& block = saved.block;
    constexpr std::size_t kFirst = 4;  // inputs before the layers' parameters
    const std::size_t fc_at = kFirst + block.attn_proj.parameters().size();
    const std::size_t mlp_at = fc_at + block.c_fc.parameters().size();
    if (!saved.keep_gelu)
      saved.mlp_saved.input = gelu_input(saved.before_gelu, block.mlp_proj, {.rows = false, .transposed = true});
    const LinearGradients mlp =
        linear_backward(block.mlp_proj, saved.mlp_saved,
                        {.parts = {dropped(grads[1], block.dropout, block.dropout.mlp_out)}}, needs_of(ctx, mlp_at));
    saved.mlp_saved = {};
    const LinearGradients fc = linear_backward(
        block.c_fc, saved.fc_saved, {.parts = {mlp.input}, .gelu_input = saved.before_gelu}, needs_of(ctx, fc_at));
    saved.before_gelu.reset(), saved.fc_saved = {};
    const NormGradients norm = norm_backward(saved.norm, fc.input, grads[0]);
    const LinearGradients proj = linear_backward(
        block.attn_proj, saved.proj_saved, {.parts = {dropped(norm.residual, block.dropout, block.dropout.attn_out)}},
        needs_of(ctx, kFirst));
    tensor_list out = {norm.residual, proj.input, norm.weight, norm.bias};
    append_gradients(block.attn_proj, proj, out);
    append_gradients(block.c_fc, fc, out);
    append_gradients(block.mlp_proj, mlp, out);
    out.insert(out.end(), 3, at::Tensor());
    return out;
  }
};

class NormFunction : public torch::autograd::Function<NormFunction> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& x, const OptionalTensor& delta, const Variable& weight,
                          const Variable& bias, bool train) {
    NormSaved saved;
    at::Tensor sum;
    const LinearOperand out =
        norm_forward(x, delta ? *delta : at::Tensor(), {weight, bias}, /*next=*/nullptr, train, sum, saved);
    ctx->saved_data["has_delta"] = delta.has_value();
    if (train) keep(ctx, std::move(saved));
    return out.values;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const NormGradients norm = norm_backward(take<NormSaved>(ctx), grads[0].contiguous(), {});
    const bool has_delta = ctx->saved_data["has_delta"].toBool();
    return {norm.residual, has_delta ? norm.residual : at::Tensor(), norm.weight, norm.bias, {}};
  }
};

std::vector<at::Tensor> parameters_of(std::initializer_list<const LinearPass*> linears) {
  std::vector<at::Tensor> all;
  for (const LinearPass* linear : linears) {
    const std::vector<at::Tensor> own = linear->parameters();
    all.insert(all.end(), own.begin(), own.end());
  }
  return all;
}

}  // namespace

at::Tensor sum_of(const ResidualPair& pair) {
  return pair.delta.defined() ? pair.residual + pair.delta : pair.residual;
}

FirstHalf fused_first_half(const ResidualPair& x, const FusedNorm& norm, const LinearPass& c_attn) {
  const std::vector<at::Tensor> parameters = c_attn.parameters();
  const tensor_list out = FirstHalfFunction::apply(x.residual, optional(x.delta), norm.weight, norm.bias,
                                                   at::TensorList(parameters), c_attn, at::GradMode::is_enabled());
  return {out[3], out[0], out[1], out[2]};
}

ResidualPair fused_second_half(const at::Tensor& residual, const at::Tensor& attended, const FusedBlock& block,
                               bool keep_gelu) {
  const std::vector<at::Tensor> parameters = parameters_of({&block.attn_proj, &block.c_fc, &block.mlp_proj});
  const tensor_list out =
      SecondHalfFunction::apply(residual, attended, block.ln_2.weight, block.ln_2.bias, at::TensorList(parameters),
                                block, keep_gelu, at::GradMode::is_enabled());
  return {out[0], out[1]};
}

at::Tensor fused_norm(const ResidualPair& x, const FusedNorm& norm) {
  return NormFunction::apply(x.residual, optional(x.delta), norm.weight, norm.bias, at::GradMode::is_enabled());
}

}  // namespace qat
