#include "src/train/calibration_report.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <utility>

#include "src/train/calibrator.h"

namespace qat {
namespace {

constexpr double kVanishing = 1e-9;

class StepSums {
 public:
  void add(const std::string& layer, const at::Tensor& steps) {
    const at::Tensor all = steps.to(at::kCPU).to(at::kDouble);
    const double least = all.min().item<double>(), most = all.max().item<double>();
    const double mean = all.mean().item<double>();
    summary_.least = summary_.quantizers == 0 ? least : std::min(summary_.least, least);
    summary_.most = summary_.quantizers == 0 ? most : std::max(summary_.most, most);
    ++summary_.quantizers;
    sum_ += all.sum().item<double>(), groups_ += all.numel();
    by_mean_[mean].push_back(layer);
    if (most <= kVanishing) summary_.vanishing.push_back(layer);
  }
  StepSummary finish() {
    if (groups_ > 0) summary_.mean = sum_ / static_cast<double>(groups_);
    for (const auto& [mean, layers] : by_mean_)
      if (layers.size() > 1) summary_.duplicates.insert(summary_.duplicates.end(), layers.begin(), layers.end());
    return std::move(summary_);
  }

 private:
  StepSummary summary_;
  std::map<double, std::vector<std::string>> by_mean_;
  double sum_ = 0.0;
  std::int64_t groups_ = 0;
};

std::string steps_text(const char* role, const StepSummary& steps) {
  return fmt::format("{} steps {:.4g} to {:.4g}, mean {:.4g}, of {} quantizers", role, steps.least, steps.most,
                     steps.mean, steps.quantizers);
}

Value to_value(const StepSummary& steps) {
  return Value::object({{"quantizers", steps.quantizers},
                        {"min", steps.least},
                        {"max", steps.most},
                        {"mean", steps.mean},
                        {"duplicates", Value::array(steps.duplicates)},
                        {"vanishing", Value::array(steps.vanishing)}});
}

}  // namespace

CalibrationReport calibration_report(const Gpt2& model, const PrecisionMap& precision, const Calibration& found,
                                     std::int64_t step, std::int64_t batches) {
  CalibrationReport report{.step = step,
                           .batches = batches,
                           .weight_bits = precision.nominal().weight.bits(),
                           .activation_bits = precision.nominal().activation.bits()};
  StepSums weights, activations;
  for (const QuantLinear& linear : model.linears()) {
    const std::string& name = linear.spec().name;
    const LayerPrecision& layer = precision.at(linear.spec().index);
    if (!layer.weight.is_full()) weights.add(name, linear.weight_steps(layer));
    if (layer.activation.is_full()) continue;
    ++report.quantizers;
    const Quantizer& quantizer = linear.activation_quantizer();
    const CalibratedRange* range = quantizer.in_force(range_widths(layer));
    if (range == nullptr) continue;
    ++report.calibrated;
    activations.add(name, quantizer.method(layer.activation).step_sizes(*range, layer.activation));
    const auto inputs = found.inputs.find(linear.spec().index);
    if (inputs == found.inputs.end()) continue;
    report.layers.push_back({.layer = name,
                             .weight_bits = layer.weight.bits(),
                             .activation_bits = layer.activation.bits(),
                             .inputs = inputs->second,
                             .lo = range->lo.min().item<double>(),
                             .hi = range->hi.max().item<double>()});
  }
  report.weights = weights.finish(), report.activations = activations.finish();
  return report;
}

std::string text_of(const CalibrationReport& report) {
  return fmt::format(
      "calibrated at step {}, W{} A{}: {} of {} activation ranges, {} of them from {} batches now; {}; {}", report.step,
      report.weight_bits, report.activation_bits, report.calibrated, report.quantizers, report.layers.size(),
      report.batches, steps_text("activation", report.activations), steps_text("weight", report.weights));
}

std::vector<std::string> doubts_of(const CalibrationReport& report) {
  std::vector<std::string> doubts;
  const std::string when =
      fmt::format("calibrated at step {}, W{} A{}", report.step, report.weight_bits, report.activation_bits);
  for (const auto& [role, steps] :
       {std::pair{"weight", &report.weights}, std::pair{"activation", &report.activations}}) {
    if (!steps->duplicates.empty())
      doubts.push_back(fmt::format("{}: {} quantizers of some layers have the very same steps: {}", when, role,
                                   fmt::join(steps->duplicates, ", ")));
    if (!steps->vanishing.empty())
      doubts.push_back(fmt::format("{}: {} steps vanish, so that everything is zero, in {}", when, role,
                                   fmt::join(steps->vanishing, ", ")));
  }
  return doubts;
}

Value to_value(const CalibrationReport& report) {
  Value::Array layers;
  for (const LayerCalibration& one : report.layers)
    layers.push_back(Value::object({{"layer", one.layer},
                                    {"weight_bits", one.weight_bits},
                                    {"activation_bits", one.activation_bits},
                                    {"min", one.inputs.min},
                                    {"max", one.inputs.max},
                                    {"mean", one.inputs.mean},
                                    {"deviation", one.inputs.deviation},
                                    {"count", one.inputs.count},
                                    {"range_lo", one.lo},
                                    {"range_hi", one.hi}}));
  return Value::object({{"step", report.step},
                        {"batches", report.batches},
                        {"weight_bits", report.weight_bits},
                        {"activation_bits", report.activation_bits},
                        {"calibrated", report.calibrated},
                        {"quantizers", report.quantizers},
                        {"weight_steps", to_value(report.weights)},
                        {"activation_steps", to_value(report.activations)},
                        {"layers", Value::array(std::move(layers))}});
}

}  // namespace qat
