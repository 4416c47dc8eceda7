// One tensor role's quantizer: where its scales come from, and tensors turned into codes or fake-quantized values.
#pragma once

#include <ATen/core/Tensor.h>

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels/common/bit_width.h"
#include "kernels/quant/range.h"
#include "src/quant/quant_config.h"
#include "src/quant/quant_method.h"
#include "src/quant/wide_codes.h"

namespace qat {

// Integer codes of a matrix and the scales that give them back: value = code * scale.
struct Coded {
  at::Tensor codes;             // int8 [rows, cols]
  at::Tensor codes_transposed;  // int8 [cols, rows]; undefined unless asked for
  at::Tensor scales;            // fp32 [rows] or [1]
};

// Which copies of the codes: a product reads the rows of both matrices, and the next one may want the columns.
struct CodeCopies {
  bool rows = true, transposed = false;
};
// Memory for the codes of x, [rows, cols], with a scale for each row.
Coded empty_codes(const at::Tensor& x, CodeCopies copies);

// The values that codes stand for, with one scale per row or one for all, in `dtype`.
at::Tensor decode(const at::Tensor& codes, const at::Tensor& scales, at::ScalarType dtype);

// The widths that a calibrated range belongs to: what a layer sees depends on those of the weights before it, for which
// its own stand, and how many codes a range has on those of the values.
struct RangeWidths {
  static constexpr int kAnyWeights = 0;  // of a checkpoint that does not tell

  int weight = BitWidth::kFull;
  int activation = BitWidth::kFull;
  friend auto operator<=>(const RangeWidths&, const RangeWidths&) = default;
};

// Ranges of some layers, by index in PrecisionMap: what one evaluation uses in place of the ranges in force.
using RangeTable = std::map<std::int64_t, CalibratedRange>;

// Whether a quantizer's ranges come from where its configuration says (range_source), or always from the data at hand.
enum class RangesOf : std::uint8_t { kConfigured, kData };

class Quantizer {
 public:
  // `layer` and `role` ("weight", "activation", "lora_a", "lora_b") name it in errors.
  Quantizer(std::string layer, std::string role, const QuantizerConfig& config,
            RangesOf ranges = RangesOf::kConfigured);

  RangeSource source(BitWidth width) const;
  // Whether it needs ranges in force: they are not those of the data at hand.
  bool needs_ranges(BitWidth width) const { return source(width) != RangeSource::kDynamic; }
  bool ever_needs_ranges() const;  // at some width
  // Whether training quantizes with each pass's own range, and only others with the running one.
  bool trains_on_own_range(BitWidth width) const;
  const std::string& layer() const { return layer_; }
  const std::string& role() const { return role_; }
  const QuantMethod& method(BitWidth width) const { return quant_method(config_, width); }

  // x: [..., cols] of fp32 or bf16, contiguous. `range`: for quantizers that need ranges, else null: x's own.
  // Only for min-max symmetric quantizers of at most 8 bits without per-feature scales (choose_gemm_path).
  Coded encode(const at::Tensor& x, BitWidth width, bool with_transposed, const CalibratedRange* range = nullptr) const;
  // The same for widths up to 11, as fp16 integers.
  WideCoded encode_wide(const at::Tensor& x, BitWidth width, const CalibratedRange* range = nullptr) const;
  // The values that quantization at `width` leaves, same shape as x. Widths of 32 return x.
  at::Tensor fake_quant(const at::Tensor& x, BitWidth width, const CalibratedRange* range = nullptr) const;

  // Whether gradients through it follow a rule of its own, as quantized_by_rule() applies it.
  bool has_gradient_rule(BitWidth width) const;
  // That rule: x and dy as fake_quant's x, `range` as there; x may be of another dtype than dy, which the result's has.
  QuantGradients backward(const at::Tensor& dy, const at::Tensor& x, BitWidth width, const CalibratedRange* range,
                          std::int64_t sharing) const;

  // The ranges in force: training's.
  const std::map<RangeWidths, CalibratedRange>& ranges() const { return ranges_; }
  void put_in_force(const RangeWidths& widths, CalibratedRange range) { ranges_[widths] = std::move(range); }
  // That of `widths`, else one of any weights; null: none.
  const CalibratedRange* in_force(const RangeWidths& widths) const;
  // The same; throws Error(kInternal) naming layer, role and widths if there is none.
  const CalibratedRange& required(const RangeWidths& widths) const;
  // The range of x itself.
  CalibratedRange measure(const at::Tensor& x, BitWidth width) const;
  // Whether ranges of `width` have a mean.
  bool wants_mean(BitWidth width) const { return method(width).wants_mean(width); }
  // How many values of x lie where no code of `range`, of that width, reaches: int64 [], on x's device.
  at::Tensor count_beyond(const at::Tensor& x, BitWidth width, const CalibratedRange& range) const;
  // Numbers that a calibrated range consists of.   cols: last dimension of x.
  std::int64_t calibrated_groups(std::int64_t cols) const;

 private:
  // The range that x is quantized with: its own, or `range`.
  CalibratedRange range_for(const at::Tensor& x, BitWidth width, const CalibratedRange* range) const;

  std::string layer_, role_;
  QuantizerConfig config_;
  RangesOf ranges_of_;
  kernels::Axis axis_ = kernels::Axis::kRow;
  std::map<RangeWidths, CalibratedRange> ranges_;
};

}  // namespace qat
