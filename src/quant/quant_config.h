// What is quantized, how, and with which ranges. JSON section "quant".
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "kernels/common/bit_width.h"
#include "kernels/quant/log_codebook.h"
#include "src/base/named_enum.h"
#include "src/bitmap/bitmap_text.h"

namespace qat {

// Formulas and gradients: docs/numerics.md. ema takes running ranges, lsq and groupwise train theirs.
enum class QuantizerKind : unsigned char { kMinMax, kLog, kLlmQat, kCpt, kEma, kLsq, kGroupwise };
template <>
struct EnumNames<QuantizerKind> {
  static constexpr std::array names{"minmax", "log", "llm_qat", "cpt", "ema", "lsq", "groupwise"};
};

using kernels::LogCodebook;
template <>
struct EnumNames<LogCodebook> {
  static constexpr std::array names{"seed", "packed"};
};

// What shares a scale: the whole tensor, an output channel (of weights), a token or an input feature (of activations).
enum class Granularity : unsigned char { kTensor, kChannel, kToken, kFeature };
template <>
struct EnumNames<Granularity> {
  static constexpr std::array names{"tensor", "channel", "token", "feature"};
};

// Where ranges come from: the data at hand, the calibration batches, a running mean over training's steps, or training
// itself.
enum class RangeSource : unsigned char { kDynamic, kCalibrated, kRunning, kLearned };
template <>
struct EnumNames<RangeSource> {
  static constexpr std::array names{"dynamic", "calibrated", "running", "learned"};
};

// What calibration makes of its batches: all that it saw, or less, so that what is common is told apart better.
enum class CalibrationMethod : unsigned char { kMinMax, kPercentile, kEntropy };
template <>
struct EnumNames<CalibrationMethod> {
  static constexpr std::array names{"minmax", "percentile", "entropy"};
};

// The kind of quantizer of one width.
struct WidthMethod {
  int bits = 0;
  QuantizerKind method = QuantizerKind::kMinMax;
};

// One role's quantizer (weights or activations).
struct QuantizerConfig {
  QuantizerKind method = QuantizerKind::kMinMax;    // at every width that by_width does not name
  bool symmetric = true;                            // minmax, llm_qat and ema: false is affine (codes 0..2^b-1)
  LogCodebook log_codebook = LogCodebook::kPacked;  // log only: packed (2^b-1 values) | seed (2^(b+1)-1 values)
  Granularity granularity = Granularity::kTensor;   // weights: tensor | channel; activations: tensor | token | feature
  RangeSource range = RangeSource::kDynamic;        // of kinds that do not say it themselves (range_source)
  std::int64_t group_size = 64;       // groupwise only: inputs that share a scale and a zero point; 0: a whole row
  std::vector<WidthMethod> by_width;  // other kinds at single widths, each named once at most

  // The kind at a width of this role's own.
  QuantizerKind method_at(int bits) const {
    for (const WidthMethod& one : by_width)
      if (one.bits == bits) return one.method;
    return method;
  }
  // Whether some width has it.
  bool uses(QuantizerKind kind) const {
    return method == kind ||
           std::any_of(by_width.begin(), by_width.end(), [kind](const WidthMethod& one) { return one.method == kind; });
  }
};

// Widths of the linear layers whose name matches: they replace what the schedule says.
struct LayerOverride {
  std::string layers;       // a glob over names such as h.0.attn.c_attn, h.*.mlp.c_proj, lm_head
  int weight_bits = 0;      // 0: as scheduled
  int activation_bits = 0;  // 0: as scheduled
  int gradient_bits = 0;    // 0: as scheduled
};

struct QuantConfig {
  std::vector<int> widths = {2, 3, 4, 5, 6, 7, 8, 32};  // that training may visit; each 2..18 or 32
  int activation_bits = 0;                              // 0: the weight width of the step; else this width always
  int kv_bits = 32;               // of attention's keys and values, where a map does not say; 32: not quantized
  std::vector<std::string> maps;  // widths layer by layer (src/bitmap/bitmap_text.h), in place of `widths`
  QuantizerConfig weight{.granularity = Granularity::kChannel};
  QuantizerConfig activation{.granularity = Granularity::kToken};
  bool stochastic_gradients = true;  // gradients are rounded stochastically, else to nearest
  double log_grad_clip = 10.0;       // log quantizer: |gradient| is clamped to this (scale-aware)
  int calibration_batches = 10;      // micro-batches that calibrated ranges are taken from
  CalibrationMethod calibration_method = CalibrationMethod::kMinMax;
  double calibration_percentile = 99.9;  // percentile only: of |x|, what calibrated ranges reach
  double running_momentum = 0.9;         // what a step leaves of a running range; the rest is the step's own
  std::int64_t recalibrate_every = 0;    // steps after which calibrated ranges are taken anew; 0: never
  std::vector<LayerOverride> overrides;  // applied in order, later ones win
};

// Every width below 32 that a layer's weights can have: the configured ones and those of overrides and maps, rising.
inline std::vector<int> quantized_weight_widths(const QuantConfig& quant) {
  std::set<int> widths(quant.widths.begin(), quant.widths.end());
  for (const LayerOverride& rule : quant.overrides)
    if (rule.weight_bits != 0) widths.insert(rule.weight_bits);
  for (const std::string& map : quant.maps)
    for (const int bits : weight_widths(parse_bitmap(map))) widths.insert(bits);
  widths.erase(BitWidth::kFull);
  return {widths.begin(), widths.end()};
}

// The same of a layer's inputs.
inline std::vector<int> quantized_activation_widths(const QuantConfig& quant) {
  std::set<int> widths(quant.widths.begin(), quant.widths.end());
  if (quant.activation_bits != 0) widths = {quant.activation_bits};
  for (const LayerOverride& rule : quant.overrides)
    if (rule.activation_bits != 0) widths.insert(rule.activation_bits);
  widths.erase(BitWidth::kFull);
  return {widths.begin(), widths.end()};
}

}  // namespace qat
