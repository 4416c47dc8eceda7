// What a quantizer does to numbers: one value for each kind of codes, whatever has a scale of its own in them
// (docs/numerics.md has the formulas). A new kind is a file pair like minmax_method, a row of QuantizerKind, its line
// in quant_method(), its kernel and its test.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "kernels/common/bit_width.h"
#include "kernels/quant/range.h"
#include "src/quant/quant_config.h"

namespace qat {

// A range of x, for one width.   lo, hi: fp32 [groups]: min and max of x, or for the log quantizer of log2|x|; mean: of
// log2|x| (log, packed, 2 bits), of |x| (llm_qat, 1 and 2 bits). What lsq has for a range is its step, in `mean`, with
// the data's lo and hi or none; groupwise has its scales in `lo` and its zero points in `hi`.
struct CalibratedRange {
  at::Tensor lo, hi, mean;
  std::int64_t batches = 0;  // that it was taken from
  std::int64_t step = 0;     // of training, before which it was taken
};

// What a stored tensor takes beside its codes' bits.
struct CodeStorage {
  int extra_bits = 0;           // of a code, over its width
  int numbers_per_group = 1;    // fp32: a scale, and a zero-point or an offset
  std::int64_t group_size = 0;  // values of a row that share these; 0: as the granularity says
};

// Which gradient passes a quantizer.
enum class GradientRule : std::uint8_t {
  kStraightThrough,  // the whole gradient, whatever the forward pass did
  kMasked,           // none of elements that a range cuts off; a range of the data itself cuts off none
  kTrained,          // the same, and the range has a gradient of its own
};

// A member of a range that is a parameter, one for each layer and width.
struct TrainedMember {
  const char* name;  // in the parameter's: <layer>.weight_<name>.w4
  at::Tensor CalibratedRange::*member;
  std::vector<std::int64_t> shape;
};

struct QuantGradients {
  at::Tensor x;
  std::vector<at::Tensor> trained;  // of trained_members(), each flat
};

class QuantMethod {
 public:
  QuantMethod() = default;
  QuantMethod(const QuantMethod&) = delete;
  QuantMethod& operator=(const QuantMethod&) = delete;
  virtual ~QuantMethod() = default;

  // Whether a value is a code times its group's scale and the integer kernels make such codes: a product of two such
  // matrices is a product of integers.
  virtual bool factors_out() const = 0;
  // Whether the magnitude of the gradient that passes straight through is clamped (quant.log_grad_clip).
  virtual bool clamps_gradient() const { return false; }
  virtual CodeStorage storage() const = 0;

  // x is fp32, contiguous, in groups along `axis`; ranges have a number for each group.
  virtual CalibratedRange measure(const at::Tensor& x, kernels::Axis axis, BitWidth width) const = 0;
  virtual bool wants_mean(BitWidth /*width*/) const { return false; }  // in its ranges
  // fp32 [groups]. Only where it factors out.
  virtual at::Tensor scales(const CalibratedRange& range, BitWidth width) const;
  // What neighbouring codes lie apart by, for reports: fp32, as many as the range has groups. By default the range over
  // the number of codes; for logarithms of that kind.
  virtual at::Tensor step_sizes(const CalibratedRange& range, BitWidth width) const;
  // The values that quantization leaves: fp32, x's shape.
  virtual at::Tensor fake_quant(const at::Tensor& x, kernels::Axis axis, BitWidth width,
                                const CalibratedRange& range) const = 0;
  // How many values lie where no code of `range` reaches: int64 [].
  virtual at::Tensor count_beyond(const at::Tensor& x, const CalibratedRange& range, BitWidth width) const = 0;

  virtual GradientRule gradient_rule() const { return GradientRule::kStraightThrough; }
  // For all rules but the first: dy is the gradient of what fake_quant(x) gave. `sharing`: how many values of one
  // sample share a trained member (a tensor's values, a token's features).
  virtual QuantGradients backward(const at::Tensor& dy, const at::Tensor& x, kernels::Axis axis, BitWidth width,
                                  const CalibratedRange& range, std::int64_t sharing) const;
  // Of a matrix of rows x cols; none: its ranges are measured.
  virtual std::vector<TrainedMember> trained_members(std::int64_t /*rows*/, std::int64_t /*cols*/) const { return {}; }
};

// The one of the method at this width, symmetric, log_codebook and group_size. Lives as long as the program.
const QuantMethod& quant_method(const QuantizerConfig& config, BitWidth width);

// Where ranges of this width come from: config.range, unless the method says something else (ema, lsq, groupwise).
RangeSource range_source(const QuantizerConfig& config, BitWidth width);
// Whether those of some width come from there.
bool has_ranges_from(const QuantizerConfig& config, RangeSource source);

// Whether gradients follow a rule of the method's own, given where its ranges come from.
bool has_gradient_rule(const QuantizerConfig& config, BitWidth width);

// What adapters are quantized with, always on the data at hand: quant.weight's methods; min-max in place of those that
// train their ranges, and then with a scale a row.
QuantizerConfig adapter_quantizer(const QuantConfig& config);

// fp32 memory for a number of each group of x.
at::Tensor empty_groups(const at::Tensor& x, kernels::Axis axis);
// Numbers of each group, [groups], so that they broadcast over x: [rows, 1], [cols] or [1] for a matrix.
at::Tensor over_groups(const at::Tensor& numbers, const at::Tensor& x, kernels::Axis axis);

}  // namespace qat
