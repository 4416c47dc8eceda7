#include "src/quant/quant_method.h"

#include <ATen/ATen.h>

#include "kernels/common/error.h"
#include "src/quant/cpt_method.h"
#include "src/quant/ema_method.h"
#include "src/quant/groupwise_method.h"
#include "src/quant/llm_qat_method.h"
#include "src/quant/log_method.h"
#include "src/quant/lsq_method.h"
#include "src/quant/minmax_method.h"
#include "src/quant/torch_view.h"

namespace qat {

using kernels::Axis;

namespace {

bool is_learned(QuantizerKind kind) { return kind == QuantizerKind::kLsq || kind == QuantizerKind::kGroupwise; }

}  // namespace

at::Tensor QuantMethod::scales(const CalibratedRange& /*range*/, BitWidth /*width*/) const {
  QAT_CHECK(false, "codes that are not multiples of a scale");
  return {};
}

at::Tensor QuantMethod::step_sizes(const CalibratedRange& range, BitWidth width) const {
  return (range.hi - range.lo) / width.level_max();
}

QuantGradients QuantMethod::backward(const at::Tensor& /*dy*/, const at::Tensor& /*x*/, Axis /*axis*/,
                                     BitWidth /*width*/, const CalibratedRange& /*range*/,
                                     std::int64_t /*sharing*/) const {
  QAT_CHECK(false, "a quantizer whose gradient passes straight through has no rule of its own");
  return {};
}

const QuantMethod& quant_method(const QuantizerConfig& config, BitWidth width) {
  switch (config.method_at(width.bits())) {
    case QuantizerKind::kMinMax:
      return config.symmetric ? symmetric_method() : affine_method();
    case QuantizerKind::kLog:
      return log_method(config.log_codebook);
    case QuantizerKind::kLlmQat:
      return llm_qat_method(config.symmetric);
    case QuantizerKind::kCpt:
      return cpt_method();
    case QuantizerKind::kEma:
      return config.symmetric ? ema_method() : affine_method();
    case QuantizerKind::kLsq:
      return lsq_method();
    case QuantizerKind::kGroupwise:
      return groupwise_method(config.group_size);
  }
  QAT_CHECK(false, "a kind of quantizer without its method");
  return symmetric_method();
}

RangeSource range_source(const QuantizerConfig& config, BitWidth width) {
  const QuantizerKind kind = config.method_at(width.bits());
  if (kind == QuantizerKind::kEma) return RangeSource::kRunning;
  return is_learned(kind) ? RangeSource::kLearned : config.range;
}

bool has_ranges_from(const QuantizerConfig& config, RangeSource source) {
  for (int bits = BitWidth::kMin; bits <= BitWidth::kMax; ++bits)
    if (range_source(config, BitWidth(bits)) == source) return true;
  return false;
}

bool has_gradient_rule(const QuantizerConfig& config, BitWidth width) {
  const GradientRule rule = quant_method(config, width).gradient_rule();
  return rule == GradientRule::kTrained ||
         (rule == GradientRule::kMasked && range_source(config, width) != RangeSource::kDynamic);
}

QuantizerConfig adapter_quantizer(const QuantConfig& config) {
  QuantizerConfig adapter = config.weight;
  const auto replace = [&](QuantizerKind& kind) {
    if (!is_learned(kind)) return;
    kind = QuantizerKind::kMinMax;
    adapter.granularity = Granularity::kChannel;
  };
  replace(adapter.method);
  for (WidthMethod& one : adapter.by_width) replace(one.method);
  return adapter;
}

at::Tensor empty_groups(const at::Tensor& x, Axis axis) {
  return at::empty({kernels::groups_of(const_matrix(x), axis)}, x.options().dtype(at::kFloat));
}

at::Tensor over_groups(const at::Tensor& numbers, const at::Tensor& x, Axis axis) {
  if (axis != Axis::kRow) return numbers;
  auto shape = x.sizes().vec();
  shape.back() = 1;
  return numbers.view(shape);
}

}  // namespace qat
