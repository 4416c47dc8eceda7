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

Axis axis_of(const std::string& granularity) {
  if (granularity == "tensor") return Axis::kTensor;
  if (granularity == "channel" || granularity == "token") return Axis::kRow;
  QAT_CHECK(granularity == "feature", "unknown granularity " + granularity);
  return Axis::kCol;
}

at::Tensor groups_like(const at::Tensor& x, Axis axis) {
  return at::empty({kernels::groups_of(const_matrix(x), axis)}, x.options().dtype(at::kFloat));
}

}  // namespace

Quantizer::Quantizer(std::string layer, std::string role, const QuantizerConfig& config)
    : layer_(std::move(layer)),
      role_(std::move(role)),
      log_(config.method == "log"),
      symmetric_(config.symmetric),
      calibrated_mode_(config.range == "calibrated"),
      codebook_(config.log_codebook == "seed" ? kernels::LogCodebook::kSeed : kernels::LogCodebook::kPacked),
      axis_(axis_of(config.granularity)) {}

// A 2-bit packed log code has a single magnitude, so its exponent is the mean and not the range.
bool Quantizer::wants_mean(BitWidth width) const {
  return log_ && codebook_ == kernels::LogCodebook::kPacked && width.q_max() == 1;
}

CalibratedRange Quantizer::measure(const at::Tensor& values, BitWidth width) const {
  const at::Tensor x = values.to(at::kFloat);  // the same tensor if it is fp32
  const kernels::Exec exec = exec_for(x);
  CalibratedRange range{.lo = groups_like(x, axis_), .hi = groups_like(x, axis_), .mean = {}, .batches = 1};
  if (!log_) {
    kernels::min_max(exec, const_matrix(x), axis_, span_of(range.lo), span_of(range.hi));
    return range;
  }
  const bool masked = codebook_ == kernels::LogCodebook::kPacked;
  kernels::log_range(exec, const_matrix(x), axis_, kernels::kLogEps, masked, span_of(range.lo), span_of(range.hi));
  if (wants_mean(width)) {
    range.mean = groups_like(x, axis_);
    kernels::log_mean(exec, const_matrix(x), axis_, kernels::kLogEps, span_of(range.mean));
  }
  return range;
}

CalibratedRange Quantizer::range_for(const at::Tensor& x, BitWidth width, const CalibratedRange* range) const {
  if (!calibrated_mode_) return measure(x, width);
  return range != nullptr ? *range : require_range(width);
}

const CalibratedRange& Quantizer::require_range(BitWidth width) const {
  if (const auto found = ranges_.find(width.bits()); found != ranges_.end()) return found->second;
  std::vector<int> known;
  for (const auto& [bits, range] : ranges_) known.push_back(bits);
  throw Error(
      ErrorKind::kInternal,
      fmt::format("the {} quantizer of {} has no calibrated range at {} bits (calibrated: {}); calibrate this "
                  "width first, or set quant.activation.range to \"dynamic\"",
                  role_, layer_, width.bits(), known.empty() ? "none" : fmt::format("{}", fmt::join(known, ", "))));
}

at::Tensor Quantizer::scales_from(const CalibratedRange& range, BitWidth width, at::Tensor* zero_points) const {
  at::Tensor scales = at::empty_like(range.lo);
  const kernels::Exec exec = exec_for(scales);
  if (symmetric_) {
    kernels::symmetric_scales(exec, const_span(range.lo), const_span(range.hi), width, kernels::kWeightAmaxFloor,
                              span_of(scales));
    return scales;
  }
  at::Tensor zeros = at::empty_like(range.lo);
  kernels::affine_scales(exec, const_span(range.lo), const_span(range.hi), width, span_of(scales), span_of(zeros));
  if (zero_points != nullptr) *zero_points = zeros;
  return scales;
}

Coded Quantizer::encode(const at::Tensor& x, BitWidth width, bool with_transposed, const CalibratedRange* range) const {
  QAT_CHECK(!log_ && symmetric_ && axis_ != Axis::kCol && width.bits() <= 8, "these scales do not factor out");
  const kernels::Exec exec = exec_for(x);
  const ConstFloatMatrix view = const_float_matrix(x);
  Coded out;
  out.codes = at::empty({view.rows, view.cols}, x.options().dtype(at::kChar));
  if (with_transposed) out.codes_transposed = at::empty({view.cols, view.rows}, x.options().dtype(at::kChar));
  const kernels::CodesOut target{codes(out.codes), codes(out.codes_transposed)};
  const kernels::EncodeOptions options{.width = width};
  if (!calibrated_mode_ && axis_ == Axis::kRow) {
    out.scales = at::empty({view.rows}, x.options().dtype(at::kFloat));
    kernels::encode_rows(exec, view, options, target, span_of(out.scales));
    return out;
  }
  out.scales = scales_from(range_for(x, width, range), width, nullptr);
  kernels::encode_with_scales(exec, view, const_span(out.scales), options, target);
  return out;
}

WideCoded Quantizer::encode_wide(const at::Tensor& x, BitWidth width, const CalibratedRange* range) const {
  QAT_CHECK(!log_ && symmetric_ && axis_ != Axis::kCol && width.bits() <= 11, "these scales do not factor out");
  const at::Tensor rows = x.detach().to(at::kFloat).reshape({-1, x.size(-1)});
  const CalibratedRange used = range_for(rows, width, range);
  const at::Tensor scales = scales_from(used, width, nullptr);
  // A value divided by its scale is its code to within a rounding, far from half a step.
  const at::Tensor codes = at::round(fake_quant_linear(rows, width, used).div_(scales.unsqueeze(1)));
  return {codes.to(at::kHalf), scales};
}

at::Tensor Quantizer::fake_quant(const at::Tensor& values, BitWidth width, const CalibratedRange* range) const {
  if (width.is_full()) return values;
  const at::Tensor x = values.to(at::kFloat);
  const CalibratedRange used = range_for(x, width, range);
  return (log_ ? fake_quant_log(x, width, used) : fake_quant_linear(x, width, used)).to(values.scalar_type());
}

at::Tensor Quantizer::fake_quant_linear(const at::Tensor& x, BitWidth width, const CalibratedRange& range) const {
  at::Tensor y = at::empty_like(x);
  if (symmetric_) {
    const at::Tensor scales = scales_from(range, width, nullptr);
    kernels::fake_quant_symmetric(exec_for(x), const_matrix(x), axis_, const_span(scales), {.width = width}, matrix(y));
  } else {
    at::Tensor zero_points;
    const at::Tensor scales = scales_from(range, width, &zero_points);
    kernels::fake_quant_affine(exec_for(x), const_matrix(x), axis_, const_span(scales), const_span(zero_points), width,
                               matrix(y));
  }
  return y;
}

at::Tensor Quantizer::fake_quant_log(const at::Tensor& x, BitWidth width, const CalibratedRange& range) const {
  const bool one_magnitude = wants_mean(width);
  const at::Tensor log_min = one_magnitude ? range.mean : range.lo;
  const at::Tensor log_range = one_magnitude ? at::zeros_like(range.lo) : range.hi - range.lo;
  at::Tensor y = at::empty_like(x);
  kernels::fake_quant_log(exec_for(x), const_matrix(x), axis_, const_span(log_min), const_span(log_range), width,
                          codebook_, matrix(y));
  return y;
}

std::int64_t Quantizer::calibrated_groups(std::int64_t cols) const {
  QAT_CHECK(axis_ != Axis::kRow, "per-token ranges are dynamic");
  return axis_ == Axis::kTensor ? 1 : cols;
}

at::Tensor Quantizer::count_beyond(const at::Tensor& values, const CalibratedRange& range) const {
  const at::Tensor x = values.to(at::kFloat);
  if (log_) {
    const at::Tensor magnitude = x.abs(), exponent = at::log2(magnitude);
    return ((magnitude > kernels::kLogEps) & ((exponent < range.lo) | (exponent > range.hi))).sum();
  }
  if (symmetric_) return (x.abs() > at::maximum(range.lo.abs(), range.hi.abs())).sum();
  return ((x < range.lo.clamp_max(0.0)) | (x > range.hi.clamp_min(0.0))).sum();
}

}  // namespace qat
