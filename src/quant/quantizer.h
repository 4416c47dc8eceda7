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

// Ranges collected over calibration batches for one width.   lo, hi: fp32 [groups]: min and max of x, or for the log
// quantizer of log2|x|; mean: of log2|x| (log, packed, 2 bits only; while it is being collected, the sum over batches).
struct CalibratedRange {
  at::Tensor lo, hi, mean;
  std::int64_t batches = 0;
};

class Quantizer {
 public:
  // `layer` and `role` ("weight", "activation", "lora_a", "lora_b") name it in errors.
  Quantizer(std::string layer, std::string role, const QuantizerConfig& config);

  bool needs_calibration() const { return calibrated_mode_; }
  bool is_calibrated(BitWidth width) const { return ranges_.contains(width.bits()); }
  const std::string& layer() const { return layer_; }
  const std::string& role() const { return role_; }

  // x: [..., cols] of fp32 or bf16, contiguous. Only for min-max symmetric quantizers of at most 8 bits without
  // per-feature scales (choose_gemm_path). Throws Error(kInternal) naming layer, role and widths if it needs
  // calibration.
  Coded encode(const at::Tensor& x, BitWidth width, bool with_transposed) const;
  // The same for widths up to 11, as fp16 integers.
  WideCoded encode_wide(const at::Tensor& x, BitWidth width) const;
  // The values that quantization at `width` leaves, same shape as x. Widths of 32 return x.
  at::Tensor fake_quant(const at::Tensor& x, BitWidth width) const;

  // Adds x to the range being collected for `width`. Throws Error(kDiverged) if x is not finite.
  void observe(const at::Tensor& x, BitWidth width);
  // What collection has so far; merged over ranks by the caller, then finish() makes it the range in force.
  CalibratedRange& collecting(BitWidth width);
  // What a rank that saw no batch contributes: neutral to min and max.   cols: last dimension of x.
  CalibratedRange neutral_range(std::int64_t cols, BitWidth width, at::Device device = at::kCPU) const;
  void finish_calibration(BitWidth width);
  void restore(BitWidth width, CalibratedRange range) { ranges_[width.bits()] = std::move(range); }
  const std::map<int, CalibratedRange>& ranges() const { return ranges_; }

 private:
  const CalibratedRange& require_range(BitWidth width) const;
  CalibratedRange range_of(const at::Tensor& x, BitWidth width) const;
  at::Tensor scales_from(const CalibratedRange& range, BitWidth width, at::Tensor* zero_points) const;
  at::Tensor fake_quant_linear(const at::Tensor& x, BitWidth width) const;
  at::Tensor fake_quant_log(const at::Tensor& x, BitWidth width) const;
  bool wants_mean(BitWidth width) const;

  std::string layer_, role_;
  bool log_ = false;
  bool symmetric_ = true;
  bool calibrated_mode_ = false;
  kernels::LogCodebook codebook_ = kernels::LogCodebook::kPacked;
  kernels::Axis axis_ = kernels::Axis::kRow;
  std::map<int, CalibratedRange> ranges_;      // by width, in force
  std::map<int, CalibratedRange> collecting_;  // by width, being collected
};

}  // namespace qat
