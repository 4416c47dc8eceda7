#include "src/model/quant_linear.h"

#include <ATen/ATen.h>

#include "kernels/gemm/code_matmul_adapter.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

// A parameter in the activations' dtype: itself where they are fp32.
at::Tensor cast(const at::Tensor& parameter, const at::Tensor& x) {
  return parameter.defined() ? parameter.to(x.scalar_type()) : parameter;
}

// Adapters come second: they divide by the weights' scales.
void do_work(const PreparationWork& work, const kernels::Exec& exec) {
  if (!work.weights.empty()) kernels::encode_rows_batch(exec, work.weights);
  if (!work.adapters.empty()) kernels::prepare_adapters(exec, work.adapters);
}

// Products of one layer whose gradients are rounded: each draws from a stream of its own.
enum RoundedProduct : int { kBase = 0, kLoraA = 1, kLoraB = 2, kLoraAWeight = 3, kLoraBWeight = 4, kProducts = 5 };

}  // namespace

QuantLinear::QuantLinear(LinearSpec spec, const QuantConfig& quant, const LoraConfig& lora, ParameterStore& store)
    : spec_(std::move(spec)),
      quant_(&quant),
      store_(&store),
      weight_(spec_.name, "weight", quant.weight),
      lora_a_quantizer_(spec_.name, "lora_a", quant.weight),
      lora_b_quantizer_(spec_.name, "lora_b", quant.weight),
      activation_(spec_.name, "activation", quant.activation),
      quantize_lora_(lora.quantize) {
  if (lora.rank == 0) return;
  lora_a_ = store.add(spec_.parameter_prefix + ".lora_A.weight", {lora.rank, spec_.in_features},
                      ParameterGroup::kShared, /*trainable=*/true, /*decay=*/true);
  lora_b_ = store.add(spec_.parameter_prefix + ".lora_B.weight", {spec_.out_features, lora.rank},
                      ParameterGroup::kShared, /*trainable=*/true, /*decay=*/true);
  lora_scaling_ = lora.alpha / static_cast<double>(lora.rank);
}

at::Tensor QuantLinear::forward(const at::Tensor& x_in, const ForwardContext& context) const {
  const LayerPrecision& precision = context.precision->at(spec_.index);
  const at::Tensor x = x_in.contiguous();
  switch (path(precision)) {
    case GemmPath::kPlain:
      return at::linear(x, cast(store_->tensor(spec_.weight), x), cast(bias(), x));
    case GemmPath::kCodes:
      return context.calibrating() ? forward_calibrating(x, precision, *context.observers)
                                   : forward_codes(x, precision, context);
    case GemmPath::kWideCodes:
      return context.calibrating() ? forward_calibrating(x, precision, *context.observers)
                                   : forward_wide(x, precision, context);
    case GemmPath::kFakeQuant:
      return context.calibrating() ? forward_calibrating(x, precision, *context.observers)
                                   : forward_floats(x, precision, context);
  }
  return {};
}

GemmPath QuantLinear::path(const LayerPrecision& precision) const {
  return choose_gemm_path(*quant_, precision, store_->device().is_cuda() ? Device::kCuda : Device::kCpu);
}

const CalibratedRange* QuantLinear::own_range(const ForwardContext& context) const {
  if (context.ranges == nullptr) return nullptr;
  const auto found = context.ranges->find(spec_.index);
  return found == context.ranges->end() ? nullptr : &found->second;
}

GradientRounding QuantLinear::rounding(const LayerPrecision& precision, const ForwardContext& context,
                                       int product) const {
  const auto slot = static_cast<std::uint64_t>(spec_.index * kProducts + product);
  return {.width = precision.gradient,
          .stochastic = context.stochastic_gradients,
          .key = context.rng(RngPurpose::kGradientRounding, slot)};
}

at::Tensor QuantLinear::forward_codes(const at::Tensor& x, const LayerPrecision& precision,
                                      const ForwardContext& context) const {
  const GradientRounding base_rounding = rounding(precision, context, kBase);
  const bool transposed = at::GradMode::is_enabled() && backward_on_codes(base_rounding);
  const Coded xq = activation_.encode(x, precision.activation, transposed, own_range(context));
  const auto encoded = [&](const Quantizer& quantizer, int parameter, int role) {
    const auto encode = [&] { return quantizer.encode(store_->tensor(parameter), precision.weight, transposed); };
    if (context.weight_cache == nullptr) return encode();
    return context.weight_cache->get({spec_.index, role, precision.weight.bits(), transposed}, encode);
  };
  const Coded wq = encoded(weight_, spec_.weight, /*role=*/0);
  const at::Tensor y = code_linear(x, store_->tensor(spec_.weight), bias(), xq, wq, base_rounding);
  if (lora_a_ < 0) return y;

  at::Tensor h;
  if (quantize_lora_) {
    const at::Tensor a = quantize_gradient_rows(store_->tensor(lora_a_), rounding(precision, context, kLoraAWeight));
    h = code_linear(x, a, {}, xq, encoded(lora_a_quantizer_, lora_a_, /*role=*/1),
                    rounding(precision, context, kLoraA));
  } else {
    const at::Tensor quantized =
        straight_through(x, activation_.fake_quant(x, precision.activation, own_range(context)), 0.0);
    h = float_linear(quantized, cast(adapter_a(precision, context), x), {}, rounding(precision, context, kLoraA));
  }
  return y + adapter_out(h, precision, context);
}

at::Tensor QuantLinear::forward_wide(const at::Tensor& x, const LayerPrecision& precision,
                                     const ForwardContext& context) const {
  const WideCoded xq = activation_.encode_wide(x, precision.activation, own_range(context));
  const at::Tensor& w = store_->tensor(spec_.weight);
  const at::Tensor y =
      wide_code_linear(x, w, bias(), xq, weight_.encode_wide(w, precision.weight), rounding(precision, context, kBase));
  if (lora_a_ < 0) return y;
  at::Tensor h;
  if (quantize_lora_) {
    const at::Tensor a = quantize_gradient_rows(store_->tensor(lora_a_), rounding(precision, context, kLoraAWeight));
    h = wide_code_linear(x, a, {}, xq, lora_a_quantizer_.encode_wide(a, precision.weight),
                         rounding(precision, context, kLoraA));
  } else {
    const at::Tensor quantized =
        straight_through(x, activation_.fake_quant(x, precision.activation, own_range(context)), 0.0);
    h = float_linear(quantized, cast(adapter_a(precision, context), x), {}, rounding(precision, context, kLoraA));
  }
  return y + adapter_out(h, precision, context);
}

bool QuantLinear::can_fuse(const ForwardContext& context) const {
  if (context.calibrating() || spec_.bias < 0) return false;
  const LayerPrecision& precision = context.precision->at(spec_.index);
  const GemmPath taken = path(precision);
  if (taken == GemmPath::kPlain) return true;
  const bool gradients = !at::GradMode::is_enabled() || precision.gradient.bits() <= 8;
  const bool adapter = lora_a_ < 0 || (quantize_lora_ && store_->info(lora_a_).shape[0] % 8 == 0);
  return taken == GemmPath::kCodes && scales_by_row(*quant_) && gradients && adapter;
}

bool QuantLinear::adapter_in_product(at::ScalarType dtype) const {
  const kernels::Exec exec = exec_for(store_->tensor(spec_.weight));
  const std::int64_t rank = store_->info(lora_a_).shape[0];
  const DType kind = dtype == at::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
  return exec.device == Device::kCuda &&
         kernels::takes_adapter(exec, spec_.out_features, spec_.in_features, rank, kind) &&
         kernels::takes_adapter(exec, spec_.in_features, spec_.out_features, rank, kind);
}

PreparedLinear QuantLinear::plain(at::ScalarType dtype) const {
  PreparedLinear out;
  if (spec_.bias >= 0) out.bias = store_->tensor(spec_.bias).detach();
  out.plain = store_->tensor(spec_.weight).detach().to(dtype);
  return out;
}

PreparedLinear QuantLinear::memory_for_codes(bool transposed, at::ScalarType dtype) const {
  PreparedLinear out;
  out.on_codes = true;
  if (spec_.bias >= 0) out.bias = store_->tensor(spec_.bias).detach();
  out.weight = empty_codes(store_->tensor(spec_.weight).detach(), {.transposed = transposed});
  out.one = at::ones({1}, out.weight.scales.options());
  if (lora_a_ < 0) return out;
  out.lora_scaling = lora_scaling_;
  if (!adapter_in_product(dtype)) return out;
  const at::Tensor a = store_->tensor(lora_a_).detach(), b = store_->tensor(lora_b_).detach();
  out.lora_a = empty_codes(a, {});
  out.lora_a_values = at::empty({a.size(1), a.size(0)}, a.options().dtype(dtype));
  out.lora_b = at::empty(b.sizes(), b.options().dtype(dtype));
  out.lora_b_over_scales = at::empty_like(out.lora_b);
  return out;
}

void QuantLinear::prepare_codes(const LayerPrecision& precision, bool transposed, at::ScalarType dtype,
                                PreparedLinear& out, PreparationWork& work) const {
  work.weights.push_back({.x = const_float_matrix(store_->tensor(spec_.weight)),
                          .options = {.width = precision.weight},
                          .out = {codes(out.weight.codes), codes(out.weight.codes_transposed)},
                          .scales = span_of(out.weight.scales)});
  if (lora_a_ < 0) return;
  if (!out.fuses_lora()) {
    out.lora_a = lora_a_quantizer_.encode(store_->tensor(lora_a_).detach(), precision.weight, transposed);
    const Coded b = lora_b_quantizer_.encode(store_->tensor(lora_b_).detach(), precision.weight, /*transposed=*/false);
    out.lora_b = decode(b.codes, b.scales * lora_scaling_, dtype);
    return;
  }
  work.adapters.push_back({.a = const_matrix(store_->tensor(lora_a_)),
                           .b = const_matrix(store_->tensor(lora_b_)),
                           .options = {.width = precision.weight},
                           .weight_scales = const_span(out.weight.scales),
                           .scaling = static_cast<float>(lora_scaling_),
                           .a_codes = codes(out.lora_a.codes),
                           .a_scales = span_of(out.lora_a.scales),
                           .a_values = float_matrix(out.lora_a_values),
                           .b_values = float_matrix(out.lora_b),
                           .b_over_scales = float_matrix(out.lora_b_over_scales)});
}

void QuantLinear::prepare_all(std::span<const QuantLinear> linears, const ForwardContext& context,
                              at::ScalarType dtype) {
  if (linears.empty()) return;
  PreparationWork work;
  for (const QuantLinear& linear : linears) linear.prepared(context, dtype, &work);
  do_work(work, exec_for(linears.front().store_->tensor(linears.front().spec_.weight)));
}

std::shared_ptr<const PreparedLinear> QuantLinear::prepared(const ForwardContext& context, at::ScalarType dtype,
                                                            PreparationWork* later) const {
  const LayerPrecision& precision = context.precision->at(spec_.index);
  const bool transposed = at::GradMode::is_enabled();
  const at::NoGradGuard no_grad;
  const auto make = [&]() -> std::shared_ptr<const PreparedLinear> {
    std::shared_ptr<const PreparedLinear> spare;
    if (context.weight_cache != nullptr) spare = context.weight_cache->take_spare(spec_.index, transposed);
    if (path(precision) != GemmPath::kCodes) return std::make_shared<const PreparedLinear>(plain(dtype));
    const bool fits = spare != nullptr && spare->on_codes;
    auto out = std::make_shared<PreparedLinear>(fits ? *spare : memory_for_codes(transposed, dtype));
    PreparationWork now;
    prepare_codes(precision, transposed, dtype, *out, later != nullptr ? *later : now);
    do_work(now, exec_for(out->one));
    return out;
  };
  if (context.weight_cache == nullptr) return make();
  return context.weight_cache->prepared({spec_.index, /*role=*/0, precision.weight.bits(), transposed}, make);
}

FusedLinear QuantLinear::fused(const ForwardContext& context, at::ScalarType dtype) const {
  const LayerPrecision& precision = context.precision->at(spec_.index);
  FusedLinear out;
  out.prepared = prepared(context, dtype, /*later=*/nullptr);
  out.rounding = {.base = rounding(precision, context, kBase),
                  .lora_a = rounding(precision, context, kLoraA),
                  .lora_a_weight = rounding(precision, context, kLoraAWeight),
                  .lora_b_weight = rounding(precision, context, kLoraBWeight)};
  out.activation = precision.activation;
  out.parameters = {store_->tensor(spec_.weight), store_->tensor(spec_.bias)};
  if (out.prepared->has_lora()) {
    out.parameters.push_back(store_->tensor(lora_a_));
    out.parameters.push_back(store_->tensor(lora_b_));
  }
  if (context.gradient_sink != nullptr && at::GradMode::is_enabled()) {
    GradientSink& sink = *context.gradient_sink;
    out.places = {.weight = sink.open(spec_.weight), .bias = sink.open(spec_.bias)};
    if (out.prepared->has_lora()) out.places.lora_a = sink.open(lora_a_), out.places.lora_b = sink.open(lora_b_);
  }
  return out;
}

at::Tensor QuantLinear::fake_quantized(const Quantizer& quantizer, const at::Tensor& x, BitWidth width,
                                       const CalibratedRange* range) const {
  if (width.is_full()) return x;
  const double clip = quantizer.method().clamps_gradient() ? quant_->log_grad_clip : 0.0;
  return straight_through(x, quantizer.fake_quant(x.detach(), width, range), clip);
}

at::Tensor QuantLinear::quantized_weight(const LayerPrecision& precision) const {
  return fake_quantized(weight_, store_->tensor(spec_.weight), precision.weight);
}

at::Tensor QuantLinear::adapter_a(const LayerPrecision& precision, const ForwardContext& context) const {
  const at::Tensor a = quantize_gradient_rows(store_->tensor(lora_a_), rounding(precision, context, kLoraAWeight));
  return quantize_lora_ ? fake_quantized(lora_a_quantizer_, a, precision.weight) : a;
}

at::Tensor QuantLinear::adapter_out(const at::Tensor& h, const LayerPrecision& precision,
                                    const ForwardContext& context) const {
  at::Tensor b = quantize_gradient_rows(store_->tensor(lora_b_), rounding(precision, context, kLoraBWeight));
  if (quantize_lora_) b = fake_quantized(lora_b_quantizer_, b, precision.weight);
  // The product itself stays in fp32 both ways (r is small); what is quantized is B and the gradient it receives.
  return at::linear(h, cast(b * lora_scaling_, h));
}

at::Tensor QuantLinear::forward_floats(const at::Tensor& x, const LayerPrecision& precision,
                                       const ForwardContext& context) const {
  const at::Tensor xq = fake_quantized(activation_, x, precision.activation, own_range(context));
  const at::Tensor y =
      float_linear(xq, cast(quantized_weight(precision), xq), cast(bias(), xq), rounding(precision, context, kBase));
  if (lora_a_ < 0) return y;
  const at::Tensor h =
      float_linear(xq, cast(adapter_a(precision, context), xq), {}, rounding(precision, context, kLoraA));
  return y + adapter_out(h, precision, context);
}

// Calibration: quantized weights, unquantized inputs whose range is observed, no adapter.
at::Tensor QuantLinear::forward_calibrating(const at::Tensor& x, const LayerPrecision& precision,
                                            RangeObservers& observers) const {
  if (const auto wanted = observers.find(spec_.index); wanted != observers.end()) wanted->second.observe(x);
  return at::linear(x, cast(quantized_weight(precision), x), cast(bias(), x));
}

}  // namespace qat
