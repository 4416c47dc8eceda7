#include "src/quant/quantizer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "kernels/common/error.h"
#include "kernels/quant/encode.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

using kernels::Axis;

Axis axis_of(Granularity granularity) {
  switch (granularity) {
    case Granularity::kTensor:
      return Axis::kTensor;
    case Granularity::kChannel:
    case Granularity::kToken:
      return Axis::kRow;
    case Granularity::kFeature:
      return Axis::kCol;
  }
  return Axis::kTensor;
}

}  // namespace

Coded empty_codes(const at::Tensor& x, CodeCopies copies) {
  const std::int64_t rows = x.size(0), cols = x.size(1);
  const auto bytes = x.options().dtype(at::kChar);
  return {.codes = copies.rows ? at::empty({rows, cols}, bytes) : at::Tensor(),
          .codes_transposed = copies.transposed ? at::empty({cols, rows}, bytes) : at::Tensor(),
          .scales = at::empty({rows}, x.options().dtype(at::kFloat))};
}

at::Tensor decode(const at::Tensor& codes, const at::Tensor& scales, at::ScalarType dtype) {
  at::Tensor values = at::empty(codes.sizes(), scales.options().dtype(dtype));
  kernels::decode_rows(exec_for(values), const_codes(codes), const_span(scales), float_matrix(values));
  return values;
}

Quantizer::Quantizer(std::string layer, std::string role, const QuantizerConfig& config, RangesOf ranges)
    : layer_(std::move(layer)),
      role_(std::move(role)),
      config_(config),
      ranges_of_(ranges),
      axis_(axis_of(config.granularity)) {}

RangeSource Quantizer::source(BitWidth width) const {
  return ranges_of_ == RangesOf::kData ? RangeSource::kDynamic : range_source(config_, width);
}

bool Quantizer::ever_needs_ranges() const {
  for (int bits = BitWidth::kMin; bits <= BitWidth::kMax; ++bits)
    if (needs_ranges(BitWidth(bits))) return true;
  return false;
}

bool Quantizer::trains_on_own_range(BitWidth width) const {
  return source(width) == RangeSource::kRunning && config_.method_at(width.bits()) != QuantizerKind::kEma;
}

bool Quantizer::has_gradient_rule(BitWidth width) const {
  return ranges_of_ == RangesOf::kConfigured && qat::has_gradient_rule(config_, width);
}

CalibratedRange Quantizer::measure(const at::Tensor& values, BitWidth width) const {
  return method(width).measure(values.to(at::kFloat), axis_, width);  // the same tensor if it is fp32
}

CalibratedRange Quantizer::range_for(const at::Tensor& x, BitWidth width, const CalibratedRange* range) const {
  if (range != nullptr) return *range;
  QAT_CHECK(!needs_ranges(width), "a quantizer whose ranges are not the data's own is given one");
  return measure(x, width);
}

const CalibratedRange* Quantizer::in_force(const RangeWidths& widths) const {
  for (const int weight : {widths.weight, RangeWidths::kAnyWeights})
    if (const auto found = ranges_.find({weight, widths.activation}); found != ranges_.end()) return &found->second;
  return nullptr;
}

const CalibratedRange& Quantizer::required(const RangeWidths& widths) const {
  if (const CalibratedRange* range = in_force(widths)) return *range;
  std::vector<std::string> known;
  for (const auto& [of, range] : ranges_) known.push_back(fmt::format("W{} A{}", of.weight, of.activation));
  throw Error(
      ErrorKind::kInternal,
      fmt::format("the {} quantizer of {} has no calibrated range at {} bits with weights of {} bits (calibrated: {}); "
                  "calibrate these widths first, or set quant.activation.range to \"dynamic\"",
                  role_, layer_, widths.activation, widths.weight,
                  known.empty() ? "none" : fmt::format("{}", fmt::join(known, ", "))));
}

Coded Quantizer::encode(const at::Tensor& x, BitWidth width, bool with_transposed, const CalibratedRange* range) const {
  QAT_CHECK(method(width).factors_out() && axis_ != Axis::kCol && width.bits() <= 8, "these scales do not factor out");
  const kernels::Exec exec = exec_for(x);
  const ConstFloatMatrix view = const_float_matrix(x);
  Coded out;
  out.codes = at::empty({view.rows, view.cols}, x.options().dtype(at::kChar));
  if (with_transposed) out.codes_transposed = at::empty({view.cols, view.rows}, x.options().dtype(at::kChar));
  const kernels::CodesOut target{codes(out.codes), codes(out.codes_transposed)};
  const kernels::EncodeOptions options{.width = width};
  if (range == nullptr && !needs_ranges(width) && axis_ == Axis::kRow) {
    out.scales = at::empty({view.rows}, x.options().dtype(at::kFloat));
    kernels::encode_rows(exec, view, options, target, span_of(out.scales));
    return out;
  }
  out.scales = method(width).scales(range_for(x, width, range), width);
  kernels::encode_with_scales(exec, view, const_span(out.scales), options, target);
  return out;
}

WideCoded Quantizer::encode_wide(const at::Tensor& x, BitWidth width, const CalibratedRange* range) const {
  QAT_CHECK(method(width).factors_out() && axis_ != Axis::kCol && width.bits() <= 11, "these scales do not factor out");
  const at::Tensor rows = x.detach().to(at::kFloat).reshape({-1, x.size(-1)});
  const CalibratedRange used = range_for(rows, width, range);
  const at::Tensor scales = method(width).scales(used, width);
  // A value divided by its scale is its code to within a rounding, far from half a step.
  const at::Tensor codes = at::round(method(width).fake_quant(rows, axis_, width, used).div_(scales.unsqueeze(1)));
  return {codes.to(at::kHalf), scales};
}

at::Tensor Quantizer::fake_quant(const at::Tensor& values, BitWidth width, const CalibratedRange* range) const {
  if (width.is_full()) return values;
  const at::Tensor x = values.to(at::kFloat);
  return method(width).fake_quant(x, axis_, width, range_for(x, width, range)).to(values.scalar_type());
}

std::int64_t Quantizer::calibrated_groups(std::int64_t cols) const {
  QAT_CHECK(axis_ != Axis::kRow, "per-token ranges are dynamic");
  return axis_ == Axis::kTensor ? 1 : cols;
}

at::Tensor Quantizer::count_beyond(const at::Tensor& values, BitWidth width, const CalibratedRange& range) const {
  return method(width).count_beyond(values.to(at::kFloat), range, width);
}

QuantGradients Quantizer::backward(const at::Tensor& dy, const at::Tensor& values, BitWidth width,
                                   const CalibratedRange* range, std::int64_t sharing) const {
  const at::Tensor x = values.to(at::kFloat);
  QuantGradients found = method(width).backward(dy, x, axis_, width, range_for(x, width, range), sharing);
  found.x = found.x.to(dy.scalar_type());
  return found;
}

}  // namespace qat
