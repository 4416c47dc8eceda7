// What a quantizer does to numbers: one value for each kind of codes, whatever has a scale of its own in them
// (docs/numerics.md has the formulas). A new kind is a file pair like minmax_method, a row of QuantizerKind, its line
// in quant_method(), its kernel and its test.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/common/bit_width.h"
#include "kernels/quant/range.h"
#include "src/quant/quant_config.h"

namespace qat {

// A range of x, for one width.   lo, hi: fp32 [groups]: min and max of x, or for the log quantizer of log2|x|; mean: of
// log2|x| (log, packed, 2 bits only).
struct CalibratedRange {
  at::Tensor lo, hi, mean;
  std::int64_t batches = 0;  // that it was taken from
  std::int64_t step = 0;     // of training, before which it was taken
};

// What a stored tensor takes beside its codes' bits.
struct CodeStorage {
  int extra_bits = 0;         // of a code, over its width
  int numbers_per_group = 1;  // fp32: a scale, and a zero-point or an offset
};

class QuantMethod {
 public:
  QuantMethod() = default;
  QuantMethod(const QuantMethod&) = delete;
  QuantMethod& operator=(const QuantMethod&) = delete;
  virtual ~QuantMethod() = default;

  // Whether a value is a code times its group's scale: a product of two such matrices is a product of integers.
  virtual bool factors_out() const = 0;
  // Whether the magnitude of the gradient that passes straight through is clamped (quant.log_grad_clip).
  virtual bool clamps_gradient() const = 0;
  virtual CodeStorage storage() const = 0;

  // x is fp32, contiguous, in groups along `axis`; ranges have a number for each group.
  virtual CalibratedRange measure(const at::Tensor& x, kernels::Axis axis, BitWidth width) const = 0;
  virtual bool wants_mean(BitWidth /*width*/) const { return false; }  // in its ranges
  // fp32 [groups]. Only where it factors out.
  virtual at::Tensor scales(const CalibratedRange& range, BitWidth width) const = 0;
  // The values that quantization leaves: fp32, x's shape.
  virtual at::Tensor fake_quant(const at::Tensor& x, kernels::Axis axis, BitWidth width,
                                const CalibratedRange& range) const = 0;
  // How many values lie where no code of `range` reaches: int64 [].
  virtual at::Tensor count_beyond(const at::Tensor& x, const CalibratedRange& range) const = 0;
};

// The one of the method at this width, symmetric and log_codebook. Lives as long as the program.
const QuantMethod& quant_method(const QuantizerConfig& config, BitWidth width);

// fp32 memory for a number of each group of x.
at::Tensor empty_groups(const at::Tensor& x, kernels::Axis axis);

}  // namespace qat
