// Ranges of a layer that are not those of the data at hand: held, running and trained ones, and the gradients that go
// through them.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "kernels/common/error.h"
#include "src/model/quant_linear.h"
#include "src/quant/gradient_rule.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

// w4: weights, or inputs of the same width; w4a8: inputs of another.
std::string widths_name(const RangeWidths& widths) {
  const bool alone = widths.activation == BitWidth::kFull || widths.activation == widths.weight;
  return alone ? width_slot(widths.weight) : fmt::format("w{}a{}", widths.weight, widths.activation);
}

// Of weights or of inputs: that of the quantizer's own operand.
BitWidth own_width(const Quantizer& quantizer, const RangeWidths& widths) {
  return BitWidth(quantizer.role() == "weight" ? widths.weight : widths.activation);
}

}  // namespace

std::vector<TrainedMember> QuantLinear::trained_members(const Quantizer& quantizer, const RangeWidths& widths) const {
  return quantizer.method(own_width(quantizer, widths)).trained_members(spec_.out_features, spec_.in_features);
}

void QuantLinear::declare_trained(const Quantizer& quantizer, const RangeWidths& widths,
                                  std::vector<TrainedRange>& ranges) {
  const std::vector<TrainedMember> members = trained_members(quantizer, widths);
  const bool known =
      std::any_of(ranges.begin(), ranges.end(), [&](const TrainedRange& one) { return one.widths == widths; });
  if (members.empty() || known) return;
  TrainedRange range{.widths = widths, .ids = {}};
  for (const TrainedMember& member : members)
    range.ids.push_back(
        store_->add(trained_range_name(spec_.parameter_prefix, quantizer.role(), member.name) + widths_name(widths),
                    member.shape, {GroupKind::kWidth, widths.weight}, /*trainable=*/true,
                    /*decay=*/false));
  ranges.push_back(std::move(range));
}

const std::vector<int>& QuantLinear::trained_ids(const Quantizer& quantizer, const RangeWidths& widths) const {
  const std::vector<TrainedRange>& ranges = &quantizer == &weight_ ? trained_weights_ : trained_activations_;
  const auto found =
      std::find_if(ranges.begin(), ranges.end(), [&](const TrainedRange& one) { return one.widths == widths; });
  QAT_CHECK(found != ranges.end(), "no trained range of " + spec_.name + " for " + widths_name(widths));
  return found->ids;
}

std::vector<at::Tensor> QuantLinear::trained_tensors(const Quantizer& quantizer, const RangeWidths& widths) const {
  std::vector<at::Tensor> tensors;
  for (const int id : trained_ids(quantizer, widths)) tensors.push_back(store_->tensor(id));
  return tensors;
}

CalibratedRange QuantLinear::trained_range(const Quantizer& quantizer, const RangeWidths& widths) const {
  const std::vector<TrainedMember> members = trained_members(quantizer, widths);
  const std::vector<at::Tensor> tensors = trained_tensors(quantizer, widths);
  CalibratedRange range;
  for (std::size_t i = 0; i < members.size(); ++i) range.*members[i].member = tensors[i].detach();
  return range;
}

void QuantLinear::set_trained(const Quantizer& quantizer, const RangeWidths& widths, const CalibratedRange& range) {
  const std::vector<TrainedMember> members = trained_members(quantizer, widths);
  const std::vector<int>& ids = trained_ids(quantizer, widths);
  for (std::size_t i = 0; i < members.size(); ++i) {
    const at::Tensor values = (range.*members[i].member).to(at::kCPU).contiguous();
    store_->set_values(ids[i], const_span(values));
  }
}

void QuantLinear::begin_activation(const LayerPrecision& precision, CalibratedRange range) {
  const RangeWidths widths = range_widths(precision);
  if (activation_.source(precision.activation) == RangeSource::kLearned) set_trained(activation_, widths, range);
  activation_.put_in_force(widths, std::move(range));
}

bool QuantLinear::weight_lacks_range(const LayerPrecision& precision) const {
  return !precision.weight.is_full() && weight_.needs_ranges(precision.weight) &&
         weight_.in_force(weight_widths(precision)) == nullptr;
}

void QuantLinear::begin_weight(const LayerPrecision& precision, std::int64_t step) {
  const at::NoGradGuard no_grad;
  CalibratedRange range = weight_.measure(parameter(spec_.weight).detach(), precision.weight);
  range.step = step;
  if (weight_.source(precision.weight) == RangeSource::kLearned) {
    set_trained(weight_, weight_widths(precision), range);
    // From now on it is the parameters that say; their extremes remember that training has begun.
    range = {.lo = range.lo.min().view({1}), .hi = range.hi.max().view({1}), .mean = {}, .batches = 1, .step = step};
  }
  weight_.put_in_force(weight_widths(precision), std::move(range));
}

std::optional<CalibratedRange> QuantLinear::held_weight_range(const LayerPrecision& precision) const {
  if (precision.weight.is_full() || !weight_.needs_ranges(precision.weight)) return std::nullopt;
  // A width that training has not reached begins as training would begin it.
  if (weight_lacks_range(precision)) return weight_.measure(parameter(spec_.weight).detach(), precision.weight);
  const RangeWidths widths = weight_widths(precision);
  return weight_.source(precision.weight) == RangeSource::kLearned ? trained_range(weight_, widths)
                                                                   : weight_.required(widths);
}

CalibratedRange QuantLinear::weight_range(const LayerPrecision& precision) const {
  const std::optional<CalibratedRange> held = held_weight_range(precision);
  return held ? *held : weight_.measure(parameter(spec_.weight).detach(), precision.weight);
}

at::Tensor QuantLinear::weight_steps(const LayerPrecision& precision) const {
  return weight_.method(precision.weight).step_sizes(weight_range(precision), precision.weight).reshape({-1});
}

at::Tensor QuantLinear::quantized_weight(const LayerPrecision& precision) const {
  const std::optional<CalibratedRange> held = held_weight_range(precision);
  return weight_.fake_quant(parameter(spec_.weight).detach(), precision.weight, held ? &*held : nullptr);
}

bool QuantLinear::input_has_rule(const LayerPrecision& precision) const {
  return !precision.activation.is_full() && activation_.has_gradient_rule(precision.activation);
}

bool QuantLinear::weight_has_rule(const LayerPrecision& precision) const {
  return !precision.weight.is_full() && weight_.has_gradient_rule(precision.weight);
}

at::Tensor QuantLinear::forward_by_rule(const at::Tensor& x, const ForwardContext& context) const {
  const LayerPrecision& precision = context.precision->at(spec_.index);
  const std::optional<CalibratedRange> used = range(x.detach(), context);
  LinearPass work = pass(context, x.scalar_type());
  at::Tensor quantized = x, raw;
  if (input_has_rule(precision)) {
    std::vector<at::Tensor> trained;
    if (activation_.source(precision.activation) == RangeSource::kLearned && at::GradMode::is_enabled())
      trained = trained_tensors(activation_, range_widths(precision));
    quantized = quantized_by_rule(
        x, trained,
        {.quantizer = &activation_, .width = precision.activation, .range = used, .sharing = spec_.in_features});
    // What an adapter adds that reads the raw input passed no quantizer.
    if (work.prepared->adapter && work.prepared->adapter->raw_input) raw = x;
  }
  if (weight_has_rule(precision) && at::GradMode::is_enabled()) {
    const at::Tensor weight = parameter(spec_.weight);
    work.weight = {.tensor = quantized_by_rule(weight, trained_tensors(weight_, weight_widths(precision)),
                                               {.quantizer = &weight_,
                                                .width = precision.weight,
                                                .range = held_weight_range(precision),
                                                .sharing = weight.numel()}),
                   .id = -1};
    work.weight_has_other_uses = true;  // autograd takes the gradient on
  }
  return quantized_linear(quantized, input(x, used, precision), work, raw);
}

}  // namespace qat
