#include "src/train/layer_figures.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>

namespace qat {
namespace {

constexpr std::int64_t kBins = 40;

at::Tensor weight_of(const Gpt2& model, const QuantLinear& linear) {
  return model.parameters().tensor(linear.spec().weight).detach();
}

at::Tensor quantized(const QuantLinear& linear, const at::Tensor& weight, const LayerPrecision& precision,
                     const CalibratedRange& range) {
  return linear.weight_quantizer().fake_quant(weight, precision.weight, &range).to(at::kFloat);
}

// How many weights lie beyond the codes: int64 [].
at::Tensor beyond(const Quantizer& quantizer, const at::Tensor& weight, BitWidth width, const CalibratedRange& range) {
  if (!quantizer.needs_ranges(width)) return at::zeros({}, weight.options().dtype(at::kLong));  // the data's own
  const at::Tensor& numbers = range.lo.defined() ? range.lo : range.mean;
  // A range of one number a row is compared along the last dimension; trained ranges know their groups themselves.
  const bool by_row = numbers.numel() > 1 && quantizer.method(width).gradient_rule() != GradientRule::kTrained;
  return quantizer.count_beyond(by_row ? weight.t() : weight, width, range).to(at::kLong);
}

// A GPU counts in any order; counts are whole numbers, which add up to the same in each. LibTorch refuses it all the
// same where attention is to be repeatable.
class InAnyOrder {
 public:
  InAnyOrder() { at::globalContext().setDeterministicAlgorithms(false, false); }
  ~InAnyOrder() { at::globalContext().setDeterministicAlgorithms(repeatable_, warns_); }
  InAnyOrder(const InAnyOrder&) = delete;

 private:
  bool repeatable_ = at::globalContext().deterministicAlgorithms();
  bool warns_ = at::globalContext().deterministicAlgorithmsWarnOnly();
};

// Equal bins between the least and the largest value; none where these are not finite.
HistogramSummary histogram_of(const at::Tensor& tensor) {
  const at::Tensor values = tensor.to(at::kFloat).flatten();
  HistogramSummary summary;
  if (values.numel() == 0) return summary;
  const at::Tensor wide = values.to(at::kDouble);
  const at::Tensor figures = at::stack({wide.min(), wide.max(), wide.sum(), wide.square().sum()}).to(at::kCPU);
  const double* found = figures.const_data_ptr<double>();
  summary.min = found[0], summary.max = found[1], summary.sum = found[2], summary.sum_squares = found[3];
  if (!std::isfinite(summary.min) || !std::isfinite(summary.max)) return summary;
  summary.count = static_cast<double>(values.numel());
  if (summary.min == summary.max) {
    summary.limits = {summary.max};
    summary.counts = {summary.count};
    return summary;
  }
  const InAnyOrder counting;
  const at::Tensor counts = at::histc(values, kBins, summary.min, summary.max).to(at::kDouble).to(at::kCPU);
  for (std::int64_t bin = 0; bin < kBins; ++bin) {
    summary.limits.push_back(summary.min + (summary.max - summary.min) * static_cast<double>(bin + 1) / kBins);
    summary.counts.push_back(counts.const_data_ptr<double>()[bin]);
  }
  return summary;
}

// A bin for each code: [-limit, limit].
HistogramSummary code_histogram(const at::Tensor& codes) {
  HistogramSummary summary;
  if (codes.numel() == 0 || !at::isfinite(codes).all().item<bool>()) return summary;
  const at::Tensor whole = at::round(codes).flatten().to(at::kLong).to(at::kCPU);
  const std::int64_t least = whole.min().item<std::int64_t>(), most = whole.max().item<std::int64_t>();
  const at::Tensor counts = at::bincount(whole - least);
  for (std::int64_t code = least; code <= most; ++code) {
    const auto count = static_cast<double>(counts.const_data_ptr<std::int64_t>()[code - least]);
    const auto value = static_cast<double>(code);
    summary.limits.push_back(value + 0.5);
    summary.counts.push_back(count);
    summary.sum += count * value, summary.sum_squares += count * value * value;
  }
  summary.min = static_cast<double>(least), summary.max = static_cast<double>(most);
  summary.count = static_cast<double>(whole.numel());
  return summary;
}

// Whether quantized weights are whole multiples of a row's or the tensor's scale.
bool has_whole_codes(const QuantLinear& linear, const LayerPrecision& precision) {
  return linear.weight_quantizer().method(precision.weight).factors_out() && precision.weight.bits() <= 11;
}

}  // namespace

std::vector<LayerFigures> layer_figures(const Gpt2& model, const PrecisionMap& precision,
                                        std::span<const double> norms) {
  const at::NoGradGuard no_grad;
  std::vector<LayerFigures> figures;
  std::vector<at::Tensor> counted;  // of each quantized layer: zeros, and values beyond
  for (const QuantLinear& linear : model.linears()) {
    const LayerPrecision& at = precision.at(linear.spec().index);
    double squares = 0.0;
    for (const int id : linear.parameter_ids(at))
      if (const int trained = model.parameters().info(id).trainable_index; trained >= 0)
        squares += std::pow(norms[static_cast<std::size_t>(trained)], 2);
    figures.push_back({.name = linear.spec().name, .bits = at.weight.bits(), .grad_norm = std::sqrt(squares)});
    if (at.weight.is_full()) continue;
    const at::Tensor weight = weight_of(model, linear);
    const CalibratedRange range = linear.weight_range(at);
    counted.push_back((quantized(linear, weight, at, range) == 0).sum());
    counted.push_back(beyond(linear.weight_quantizer(), weight, at.weight, range));
  }
  const at::Tensor counts = counted.empty() ? at::Tensor() : at::stack(counted).to(at::kCPU);
  std::size_t next = 0, layer = 0;
  for (const QuantLinear& linear : model.linears()) {
    LayerFigures& one = figures[layer++];
    one.zero_codes = one.clipped = std::numeric_limits<double>::quiet_NaN();
    if (precision.at(linear.spec().index).weight.is_full()) continue;
    const auto elems = static_cast<double>(weight_of(model, linear).numel());
    one.zero_codes = static_cast<double>(counts.const_data_ptr<std::int64_t>()[next++]) / elems;
    one.clipped = static_cast<double>(counts.const_data_ptr<std::int64_t>()[next++]) / elems;
  }
  return figures;
}

std::vector<EventSummary::Histogram> layer_histograms(const Gpt2& model, const PrecisionMap& precision) {
  const at::NoGradGuard no_grad;
  std::vector<EventSummary::Histogram> histograms;
  for (const QuantLinear& linear : model.linears()) {
    const std::string& name = linear.spec().name;
    const LayerPrecision& at = precision.at(linear.spec().index);
    const at::Tensor weight = weight_of(model, linear);
    histograms.push_back({"weights/" + name, histogram_of(weight)});
    if (at.weight.is_full()) continue;
    const std::string width = fmt::format("/{}bit", at.weight.bits());
    const CalibratedRange range = linear.weight_range(at);
    const at::Tensor values = quantized(linear, weight, at, range);
    histograms.push_back({"scales/" + name + width, histogram_of(linear.weight_steps(at))});
    if (!has_whole_codes(linear, at)) {
      histograms.push_back({"codes/" + name + width, histogram_of(values)});
      continue;
    }
    const at::Tensor scales = linear.weight_quantizer().method(at.weight).scales(range, at.weight).reshape({-1, 1});
    histograms.push_back({"codes/" + name + width, code_histogram(values / scales)});
  }
  return histograms;
}

}  // namespace qat
