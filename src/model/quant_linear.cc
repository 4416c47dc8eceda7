#include "src/model/quant_linear.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "kernels/gemm/code_matmul_adapter.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

// Adapters come second: they divide by the weights' scales.
void do_work(const PreparationWork& work, const kernels::Exec& exec) {
  if (!work.weights.empty()) kernels::encode_rows_batch(exec, work.weights);
  if (!work.adapters.empty()) kernels::prepare_adapters(exec, work.adapters);
}

// Products of one layer whose gradients are rounded: each draws from a stream of its own.
enum RoundedProduct : int { kBase = 0, kLoraA = 1, kLoraB = 2, kLoraAWeight = 3, kLoraBWeight = 4, kProducts = 5 };

// t with zeros up to `size` of that dimension; itself if it has them.
at::Tensor padded(const at::Tensor& t, int dim, std::int64_t size) {
  if (t.size(dim) == size) return t;
  std::vector<std::int64_t> missing = t.sizes().vec();
  missing[static_cast<std::size_t>(dim)] = size - t.size(dim);
  return at::cat({t, at::zeros(missing, t.options())}, dim);
}

void append(const std::vector<int>& ids, std::vector<int>& all) { all.insert(all.end(), ids.begin(), ids.end()); }

// Whether this pass will go backward on codes, for which codes come with transposed copies.
bool wants_transposed(const LayerPrecision& precision) {
  return at::GradMode::is_enabled() && precision.gradient.bits() <= 8;
}

}  // namespace

QuantLinear::QuantLinear(LinearSpec spec, const QuantConfig& quant, const LoraConfig& lora, ParameterStore& store)
    : spec_(std::move(spec)),
      quant_(&quant),
      store_(&store),
      weight_(spec_.name, "weight", quant.weight),
      lora_a_quantizer_(spec_.name, "lora_a", adapter_quantizer(quant), RangesOf::kData),
      lora_b_quantizer_(spec_.name, "lora_b", adapter_quantizer(quant), RangesOf::kData),
      activation_(spec_.name, "activation", quant.activation) {
  for (const LayerPrecision& precision : layer_precisions(quant, spec_.name)) {
    if (!precision.weight.is_full()) declare_trained(weight_, weight_widths(precision), trained_weights_);
    if (!precision.activation.is_full()) declare_trained(activation_, range_widths(precision), trained_activations_);
  }
  const auto add = [&](int bits, GroupKey group, const std::string& suffix) {
    const AdapterShape shape = adapter_shape(lora, bits, spec_.in_features);
    if (shape.rank == 0) return;
    const std::string prefix = spec_.parameter_prefix + ".lora_";
    const int a = store.add(prefix + "A" + suffix, {shape.rank, spec_.in_features}, group, /*trainable=*/true,
                            /*decay=*/true);
    const int b = store.add(prefix + "B" + suffix, {spec_.out_features, shape.rank}, group, /*trainable=*/true,
                            /*decay=*/true);
    adapters_.push_back({.bits = bits, .a = a, .b = b, .shape = shape});
  };
  if (lora.slots == Slots::kShared) {
    add(0, GroupKind::kShared, ".weight");
    return;
  }
  for (const int bits : quantized_weight_widths(quant))
    add(bits, {GroupKind::kWidth, bits}, "." + width_slot(bits) + ".weight");
}

const AdapterSlot* QuantLinear::adapter(int weight_bits) const {
  const auto found = std::find_if(adapters_.begin(), adapters_.end(),
                                  [&](const AdapterSlot& slot) { return slot.bits == 0 || slot.bits == weight_bits; });
  return found == adapters_.end() ? nullptr : &*found;
}

GemmPath QuantLinear::path(const LayerPrecision& precision) const {
  return choose_gemm_path(*quant_, precision, store_->device().is_cuda() ? Device::kCuda : Device::kCpu);
}

std::optional<CalibratedRange> QuantLinear::range(const at::Tensor& x, const ForwardContext& context) const {
  const LayerPrecision& precision = context.precision->at(spec_.index);
  if (precision.activation.is_full() || !activation_.needs_ranges(precision.activation)) return std::nullopt;
  if (context.ranges != nullptr)
    if (const auto own = context.ranges->find(spec_.index); own != context.ranges->end()) return own->second;
  const RangeWidths widths = range_widths(precision);
  const RangeSource source = activation_.source(precision.activation);
  if (source == RangeSource::kRunning && context.range_sink != nullptr) {
    const CalibratedRange own = activation_.measure(x, precision.activation);
    context.range_sink->observe(spec_.index, widths, own);
    if (activation_.trains_on_own_range(precision.activation)) return own;
  }
  const CalibratedRange& in_force = activation_.required(widths);
  return source == RangeSource::kLearned ? trained_range(activation_, widths) : in_force;
}

GradientRounding QuantLinear::rounding(const LayerPrecision& precision, const ForwardContext& context,
                                       int product) const {
  const auto slot = static_cast<std::uint64_t>(spec_.index * kProducts + product);
  return {.width = precision.gradient,
          .stochastic = context.stochastic_gradients,
          .key = context.rng(RngPurpose::kGradientRounding, slot)};
}

LinearOperand QuantLinear::input(const at::Tensor& x_in, const std::optional<CalibratedRange>& range,
                                 const LayerPrecision& precision) const {
  const bool transposed = wants_transposed(precision);
  const at::NoGradGuard no_grad;
  const at::Tensor x = x_in.detach().reshape({-1, spec_.in_features});
  const CalibratedRange* held = range ? &*range : nullptr;
  LinearOperand out;
  switch (path(precision)) {
    case GemmPath::kPlain:
      return {.values = x};
    case GemmPath::kCodes:
      out.codes = activation_.encode(x, precision.activation, transposed, held);
      break;
    case GemmPath::kWideCodes:
      out.wide = activation_.encode_wide(x, precision.activation, held);
      break;
    case GemmPath::kFakeQuant:
      out.values = activation_.fake_quant(x, precision.activation, held);
      break;
  }
  const AdapterSlot* slot = adapter(precision.weight.bits());
  if (slot != nullptr && slot->reads_raw()) out.raw = x;
  return out;
}

at::Tensor QuantLinear::forward(const at::Tensor& x_in, const ForwardContext& context) const {
  const LayerPrecision& precision = context.precision->at(spec_.index);
  const at::Tensor x = x_in.contiguous();
  if (context.calibrating() && path(precision) != GemmPath::kPlain)
    return forward_calibrating(x, precision, *context.observers);
  if (path(precision) == GemmPath::kFakeQuant && (input_has_rule(precision) || weight_has_rule(precision)))
    return forward_by_rule(x, context);
  return quantized_linear(x, input(x, range(x.detach(), context), precision), pass(context, x.scalar_type()));
}

QuantLinear::Product QuantLinear::product(const ForwardContext& context, at::ScalarType dtype) const {
  const at::NoGradGuard no_grad;
  return [this, context, prepared = pass(context, dtype).prepared](const at::Tensor& x) {
    const LayerPrecision& precision = context.precision->at(spec_.index);
    return linear_forward(*prepared, input(x, range(x, context), precision), x.scalar_type(), /*saved=*/nullptr);
  };
}

// Quantized weights, unquantized inputs whose range is observed, no adapter.
at::Tensor QuantLinear::forward_calibrating(const at::Tensor& x, const LayerPrecision& precision,
                                            RangeObservers& observers) const {
  if (const auto wanted = observers.find(spec_.index); wanted != observers.end()) wanted->second.observe(x);
  const at::Tensor weight = quantized_weight(precision);
  const at::Tensor bias = parameter(spec_.bias);
  return at::linear(x, weight.to(x.scalar_type()), bias.defined() ? bias.to(x.scalar_type()) : bias);
}

bool QuantLinear::reads_codes(const LayerPrecision& precision) const {
  return path(precision) == GemmPath::kCodes && scales_by_row(*quant_);
}

bool QuantLinear::can_fuse(const ForwardContext& context) const {
  if (context.calibrating() || spec_.bias < 0) return false;
  const LayerPrecision& precision = context.precision->at(spec_.index);
  const GemmPath taken = path(precision);
  if (taken == GemmPath::kPlain) return true;
  const bool gradients = !at::GradMode::is_enabled() || precision.gradient.bits() <= 8;
  const AdapterSlot* slot = adapter(precision.weight.bits());
  const bool adapts = slot == nullptr || slot->on_codes() || slot->reads_raw();
  return reads_codes(precision) && gradients && adapts;
}

QuantLinear::Values QuantLinear::values(const LayerPrecision& precision) const {
  const at::NoGradGuard no_grad;
  Values out{.weight = quantized_weight(precision), .lora_a = {}, .lora_b = {}};
  const AdapterSlot* slot = adapter(precision.weight.bits());
  if (slot == nullptr || path(precision) == GemmPath::kPlain) return out;
  const BitWidth width = slot->shape.quantize ? precision.weight : BitWidth::full();
  out.lora_a = lora_a_quantizer_.fake_quant(parameter(slot->a).detach(), width);
  out.lora_b = lora_b_quantizer_.fake_quant(parameter(slot->b).detach(), width);
  out.scaling = slot->shape.scaling();
  return out;
}

at::Tensor QuantLinear::merged(const Values& values) {
  if (!values.lora_a.defined()) return values.weight;
  return at::addmm(values.weight, values.lora_b, values.lora_a, /*beta=*/1, /*alpha=*/values.scaling);
}

std::vector<int> QuantLinear::parameter_ids(const LayerPrecision& precision) const {
  std::vector<int> ids = {spec_.weight};
  if (spec_.bias >= 0) ids.push_back(spec_.bias);
  if (const AdapterSlot* slot = adapter(precision.weight.bits())) ids.insert(ids.end(), {slot->a, slot->b});
  if (!precision.weight.is_full() && weight_.source(precision.weight) == RangeSource::kLearned)
    append(trained_ids(weight_, weight_widths(precision)), ids);
  if (!precision.activation.is_full() && activation_.source(precision.activation) == RangeSource::kLearned)
    append(trained_ids(activation_, range_widths(precision)), ids);
  return ids;
}

std::vector<at::Tensor> QuantLinear::parameters(const LayerPrecision& precision) const {
  std::vector<at::Tensor> all;
  for (const int id : parameter_ids(precision)) all.push_back(store_->tensor(id));
  return all;
}

LinearPass QuantLinear::pass(const ForwardContext& context, at::ScalarType dtype) const {
  const LayerPrecision& precision = context.precision->at(spec_.index);
  LinearPass out;
  out.prepared = prepared(context, dtype, /*later=*/nullptr);
  if (path(precision) != GemmPath::kPlain)
    out.rounding = {.base = rounding(precision, context, kBase),
                    .lora_a = rounding(precision, context, kLoraA),
                    .lora_a_weight = rounding(precision, context, kLoraAWeight),
                    .lora_b_weight = rounding(precision, context, kLoraBWeight)};
  out.activation = precision.activation;
  const auto used = [&](int id) { return PassParameter{parameter(id), id}; };
  out.weight = used(spec_.weight), out.bias = used(spec_.bias);
  if (out.prepared->adapter) {
    const AdapterSlot& slot = *adapter(precision.weight.bits());
    out.lora_a = used(slot.a), out.lora_b = used(slot.b);
  }
  out.weight_has_other_uses = spec_.shares_weight;
  if (at::GradMode::is_enabled()) out.sink = context.gradient_sink;
  return out;
}

void QuantLinear::prepare_all(std::span<const QuantLinear* const> linears, const ForwardContext& context,
                              at::ScalarType dtype) {
  if (linears.empty()) return;
  PreparationWork work;
  for (const QuantLinear* linear : linears) linear->prepared(context, dtype, &work);
  do_work(work, exec_for(linears.front()->parameter(linears.front()->spec_.weight)));
}

std::shared_ptr<const PreparedLinear> QuantLinear::prepared(const ForwardContext& context, at::ScalarType dtype,
                                                            PreparationWork* later) const {
  const LayerPrecision& precision = context.precision->at(spec_.index);
  const GemmPath taken = path(precision);
  const bool transposed = taken == GemmPath::kCodes && wants_transposed(precision);
  const WeightCache::Key key{
      .linear = spec_.index, .path = taken, .bits = precision.weight.bits(), .backward = transposed};
  const at::NoGradGuard no_grad;
  const auto make = [&]() -> std::shared_ptr<const PreparedLinear> {
    std::shared_ptr<const PreparedLinear> spare;
    if (context.weight_cache != nullptr) spare = context.weight_cache->take_spare(key);
    PreparationWork now;
    auto out = std::make_shared<PreparedLinear>(
        prepare(precision, transposed, dtype, spare.get(), later != nullptr ? *later : now));
    do_work(now, exec_for(parameter(spec_.weight)));
    return out;
  };
  return context.weight_cache == nullptr ? make() : context.weight_cache->prepared(key, make);
}

PreparedLinear QuantLinear::prepare(const LayerPrecision& precision, bool transposed, at::ScalarType dtype,
                                    const PreparedLinear* spare, PreparationWork& work) const {
  PreparedLinear out;
  const at::Tensor weight = parameter(spec_.weight).detach();
  if (spec_.bias >= 0) out.bias = parameter(spec_.bias).detach();
  const GemmPath taken = path(precision);
  if (taken == GemmPath::kPlain) {
    out.weight.values = weight.to(dtype);
    return out;
  }
  out.one = spare != nullptr && spare->one.defined() ? spare->one : at::ones({1}, weight.options());
  if (reads_codes(precision)) {
    prepare_rows(precision, transposed, dtype, spare, out, work);
    return out;
  }
  const std::optional<CalibratedRange> held = held_weight_range(precision);
  out.weight = operand(weight_, weight, precision.weight, taken, transposed, dtype, held ? &*held : nullptr);
  const AdapterSlot* slot = adapter(precision.weight.bits());
  if (slot != nullptr) out.adapter = prepare_adapter(*slot, precision, transposed, dtype);
  const auto clip = [&](const Quantizer& quantizer, BitWidth width) {
    return quantizer.method(width).clamps_gradient() && !width.is_full() ? quant_->log_grad_clip : 0.0;
  };
  out.clips = {.input = clip(activation_, precision.activation),
               .weight = clip(weight_, precision.weight),
               .adapter = slot != nullptr && slot->shape.quantize ? clip(weight_, precision.weight) : 0.0};
  return out;
}

void QuantLinear::prepare_rows(const LayerPrecision& precision, bool transposed, at::ScalarType dtype,
                               const PreparedLinear* spare, PreparedLinear& out, PreparationWork& work) const {
  const at::Tensor& weight = store_->tensor(spec_.weight);
  const bool fits = spare != nullptr && spare->weight.is_coded();
  out.weight.codes = fits ? spare->weight.codes : empty_codes(weight.detach(), {.transposed = transposed});
  const Coded& coded = out.weight.codes;
  work.weights.push_back({.x = const_float_matrix(weight),
                          .options = {.width = precision.weight},
                          .out = {codes(coded.codes), codes(coded.codes_transposed)},
                          .scales = span_of(coded.scales)});
  const AdapterSlot* slot = adapter(precision.weight.bits());
  if (slot == nullptr) return;
  const std::int64_t rank = product_rank(*slot);
  if (!slot->on_codes() || !in_product(rank, dtype)) {
    out.adapter = prepare_adapter(*slot, precision, transposed, dtype);
    return;
  }
  // Another width's adapter may have had another rank, or none.
  const bool reused = fits && spare->adapter && spare->adapter->in_product() && spare->adapter->b.size(1) == rank;
  out.adapter = reused ? spare->adapter : adapter_memory(rank, dtype);
  out.adapter->scaling = slot->shape.scaling();
  out.adapter->rank = slot->shape.rank;
  out.adapter->padded_a = padded(parameter(slot->a).detach(), /*dim=*/0, rank);
  out.adapter->padded_b = padded(parameter(slot->b).detach(), /*dim=*/1, rank);
  const PreparedAdapter& adapter = *out.adapter;
  work.adapters.push_back({.a = const_matrix(adapter.padded_a),
                           .b = const_matrix(adapter.padded_b),
                           .options = {.width = precision.weight},
                           .weight_scales = const_span(coded.scales),
                           .scaling = static_cast<float>(adapter.scaling),
                           .a_codes = codes(adapter.a.codes.codes),
                           .a_scales = span_of(adapter.a.codes.scales),
                           .a_values = float_matrix(adapter.a_codes),
                           .b_values = float_matrix(adapter.b),
                           .b_over_scales = float_matrix(adapter.b_over_scales)});
}

bool QuantLinear::in_product(std::int64_t rank, at::ScalarType dtype) const {
  const kernels::Exec exec = exec_for(store_->tensor(spec_.weight));
  const DType kind = dtype == at::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
  return exec.device == Device::kCuda &&
         kernels::takes_adapter(exec, spec_.out_features, spec_.in_features, rank, kind) &&
         kernels::takes_adapter(exec, spec_.in_features, spec_.out_features, rank, kind);
}

std::int64_t QuantLinear::product_rank(const AdapterSlot& slot) const {
  constexpr std::int64_t kMultiple = 8;
  const std::int64_t rank = slot.shape.rank;
  return store_->device().is_cuda() ? (rank + kMultiple - 1) / kMultiple * kMultiple : rank;
}

PreparedAdapter QuantLinear::adapter_memory(std::int64_t rank, at::ScalarType dtype) const {
  const auto floats = parameter(spec_.weight).options().requires_grad(false);
  PreparedAdapter out;
  out.a.codes = empty_codes(at::empty({rank, spec_.in_features}, floats), {});
  out.a_codes = at::empty({spec_.in_features, rank}, floats.dtype(dtype));
  out.b = at::empty({spec_.out_features, rank}, floats.dtype(dtype));
  out.b_over_scales = at::empty_like(out.b);
  return out;
}

PreparedAdapter QuantLinear::prepare_adapter(const AdapterSlot& slot, const LayerPrecision& precision, bool transposed,
                                             at::ScalarType dtype) const {
  const at::Tensor a = parameter(slot.a).detach(), b = parameter(slot.b).detach();
  PreparedAdapter out;
  out.rank = slot.shape.rank;
  out.scaling = slot.shape.scaling();
  out.raw_input = slot.reads_raw();
  const BitWidth width = slot.shape.quantize ? precision.weight : BitWidth::full();
  out.b = (lora_b_quantizer_.fake_quant(b, width) * out.scaling).to(dtype);
  const bool codes = slot.on_codes() && path(precision) == GemmPath::kCodes;
  const std::int64_t rank = codes || out.raw_input ? product_rank(slot) : slot.shape.rank;
  if (slot.on_codes())  // zeros change no symmetric codes; of other quantizers they would be values among others
    out.a = operand(lora_a_quantizer_, padded(a, /*dim=*/0, rank), width, path(precision), transposed, dtype);
  else
    out.a.values = padded(lora_a_quantizer_.fake_quant(a, width).to(dtype), /*dim=*/0, rank);
  out.b = padded(out.b, /*dim=*/1, rank);
  return out;
}

LinearOperand QuantLinear::operand(const Quantizer& quantizer, const at::Tensor& values, BitWidth width, GemmPath path,
                                   bool transposed, at::ScalarType dtype, const CalibratedRange* range) const {
  switch (path) {
    case GemmPath::kCodes:
      return {.codes = quantizer.encode(values, width, transposed, range)};
    case GemmPath::kWideCodes:
      return {.wide = quantizer.encode_wide(values, width, range)};
    case GemmPath::kPlain:
    case GemmPath::kFakeQuant:
      break;
  }
  return {.values = quantizer.fake_quant(values, width, range).to(dtype)};
}

}  // namespace qat
