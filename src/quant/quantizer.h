// One tensor role's quantizer: where its scales come from, and tensors turned into codes or fake-quantized values.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "kernels/common/bit_width.h"
#include "kernels/quant/fake_quant.h"
#include "kernels/quant/range.h"
#include "src/quant/quant_config.h"
#include "src/quant/wide_codes.h"

namespace qat {

// Integer codes of a matrix and the scales that give them back: value = code * scale.
struct Coded {
  at::Tensor codes;             // int8 [rows, cols]
  at::Tensor codes_transposed;  // int8 [cols, rows]; undefined unless asked for
  at::Tensor scales;            // fp32 [rows] or [1]
};

// A range of x, for one width.   lo, hi: fp32 [groups]: min and max of x, or for the log quantizer of log2|x|; mean: of
// log2|x| (log, packed, 2 bits only).
struct CalibratedRange {
  at::Tensor lo, hi, mean;
  std::int64_t batches = 0;  // that it was taken from
  std::int64_t step = 0;     // of training, before which it was taken
};

// Ranges of some layers, by index in PrecisionMap: what one evaluation uses in place of the ranges in force.
using RangeTable = std::map<std::int64_t, CalibratedRange>;

class Quantizer {
 public:
  // `layer` and `role` ("weight", "activation", "lora_a", "lora_b") name it in errors.
  Quantizer(std::string layer, std::string role, const QuantizerConfig& config);

  bool needs_calibration() const { return calibrated_mode_; }
  const std::string& layer() const { return layer_; }
  const std::string& role() const { return role_; }

  // x: [..., cols] of fp32 or bf16, contiguous. `range`: a calibrated range in place of the one in force, or null.
  // Only for min-max symmetric quantizers of at most 8 bits without per-feature scales (choose_gemm_path). Throws
  // Error(kInternal) naming layer, role and widths if it needs a calibrated range and there is none.
  Coded encode(const at::Tensor& x, BitWidth width, bool with_transposed, const CalibratedRange* range = nullptr) const;
  // The same for widths up to 11, as fp16 integers.
  WideCoded encode_wide(const at::Tensor& x, BitWidth width, const CalibratedRange* range = nullptr) const;
  // The values that quantization at `width` leaves, same shape as x. Widths of 32 return x.
  at::Tensor fake_quant(const at::Tensor& x, BitWidth width, const CalibratedRange* range = nullptr) const;

  // The ranges in force, by width: training's.
  const std::map<int, CalibratedRange>& ranges() const { return ranges_; }
  void put_in_force(BitWidth width, CalibratedRange range) { ranges_[width.bits()] = std::move(range); }
  // The range of x itself.
  CalibratedRange measure(const at::Tensor& x, BitWidth width) const;
  // Whether ranges of `width` have a mean.
  bool wants_mean(BitWidth width) const;
  // How many values of x lie where no code of `range` reaches: int64 [], on x's device.
  at::Tensor count_beyond(const at::Tensor& x, const CalibratedRange& range) const;
  // Numbers that a calibrated range consists of.   cols: last dimension of x.
  std::int64_t calibrated_groups(std::int64_t cols) const;

 private:
  const CalibratedRange& require_range(BitWidth width) const;
  // The range that x is quantized with.
  CalibratedRange range_for(const at::Tensor& x, BitWidth width, const CalibratedRange* range) const;
  at::Tensor scales_from(const CalibratedRange& range, BitWidth width, at::Tensor* zero_points) const;
  at::Tensor fake_quant_linear(const at::Tensor& x, BitWidth width, const CalibratedRange& range) const;
  at::Tensor fake_quant_log(const at::Tensor& x, BitWidth width, const CalibratedRange& range) const;

  std::string layer_, role_;
  bool log_ = false;
  bool symmetric_ = true;
  bool calibrated_mode_ = false;
  kernels::LogCodebook codebook_ = kernels::LogCodebook::kPacked;
  kernels::Axis axis_ = kernels::Axis::kRow;
  std::map<int, CalibratedRange> ranges_;  // by width
};

}  // namespace qat
