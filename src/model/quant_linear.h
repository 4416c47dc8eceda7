// One quantized linear layer with its adapter slots (docs/numerics.md), one for all widths or one for each:
//
//   32 bits:  y = x W^T + b                                              no adapter
//   else:     y = x^ W^^T + b + (alpha / r) (x^ A^^T) B^^T               ^: quantized at this pass's widths
//
// An adapter may read the raw input, x A^^T, and may not be quantized itself (lora_config.h).
//
// Differs from the system it follows: A and B have scales of their own, refreshed whenever they are used, and A starts
// from U(-1/sqrt(in), 1/sqrt(in)); B starts at zero.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/quant/encode_batch.h"
#include "kernels/quant/prepare_adapters.h"
#include "src/model/forward_context.h"
#include "src/model/gpt2_config.h"
#include "src/model/parameter_store.h"
#include "src/quant/gemm_path.h"
#include "src/quant/linear_pass.h"
#include "src/quant/quantizer.h"

namespace qat {

struct LinearSpec {
  std::string name;              // short, for widths and messages: h.0.attn.c_attn
  std::string parameter_prefix;  // of its parameters: transformer.h.0.attn.c_attn
  std::int64_t index = 0;        // in PrecisionMap
  std::int64_t in_features = 0;
  std::int64_t out_features = 0;
  int weight = -1;  // parameter ids; the weight may be shared with another layer (a tied head)
  int bias = -1;    // -1: none
  bool shares_weight = false;
};

// Of a layer's inputs.
inline RangeWidths range_widths(const LayerPrecision& precision) {
  return {.weight = precision.weight.bits(), .activation = precision.activation.bits()};
}
// Of its weights.
inline RangeWidths weight_widths(const LayerPrecision& precision) {
  return {.weight = precision.weight.bits(), .activation = BitWidth::kFull};
}

// Work of QuantLinear's preparation, collected over layers.
struct PreparationWork {
  std::vector<kernels::EncodeRowsJob> weights;
  std::vector<kernels::AdapterJob> adapters;
};

// An adapter of a layer, for passes at one weight width or, where widths share it, at any.
struct AdapterSlot {
  int bits = 0;        // of the weight; 0: any
  int a = -1, b = -1;  // parameter ids: A [rank, in], B [out, rank]
  AdapterShape shape;  // its rank is above 0

  bool reads_raw() const { return shape.input == AdapterInput::kRaw; }
  // A is multiplied with the codes of the layer's input, where that has codes.
  bool on_codes() const { return shape.quantize && !reads_raw(); }
};

// A range that is trained: the parameters that are its members, for weights or inputs of one width.
struct TrainedRange {
  RangeWidths widths;
  std::vector<int> ids;  // of QuantMethod::trained_members
};

class QuantLinear {
 public:
  // Declares the adapters and what quantizers train in `store`; weight and bias are declared by the caller.
  QuantLinear(LinearSpec spec, const QuantConfig& quant, const LoraConfig& lora, ParameterStore& store);

  // Whether a fused block can run this layer in this pass: unquantized, or codes with dynamic scales per channel and
  // token, gradients on codes, and an adapter that reads the codes, or the raw input.
  bool can_fuse(const ForwardContext& context) const;
  // All that products read of the weights are codes with a scale a row, made of the values at hand.
  bool reads_codes(const LayerPrecision& precision) const;
  // The layer in a pass; weights are prepared once for as long as context's cache lives.
  LinearPass pass(const ForwardContext& context, at::ScalarType dtype) const;

  // Ahead of their use, for many layers: weights and adapters are coded by a launch or two. Needs context's cache, on
  // which no other thread may work.
  static void prepare_all(std::span<const QuantLinear* const> linears, const ForwardContext& context,
                          at::ScalarType dtype);

  // x: [..., in] -> [..., out].
  at::Tensor forward(const at::Tensor& x, const ForwardContext& context) const;
  // The same as a function that stays what it is, whatever becomes of the weights' memory: forward only.
  using Product = std::function<at::Tensor(const at::Tensor& x)>;
  Product product(const ForwardContext& context, at::ScalarType dtype) const;

  // What a pass multiplies its input with, as values: fp32, on the model's device. The adapter is undefined where the
  // layer has none or the pass uses none.
  struct Values {
    at::Tensor weight;          // [out, in]
    at::Tensor lora_a, lora_b;  // [r, in], [out, r]
    double scaling = 0.0;       // alpha / r
  };
  Values values(const LayerPrecision& precision) const;
  // Weight and adapter as one matrix: weight + (alpha / r) B A.
  static at::Tensor merged(const Values& values);

  const LinearSpec& spec() const { return spec_; }
  Quantizer& weight_quantizer() { return weight_; }
  const Quantizer& weight_quantizer() const { return weight_; }
  Quantizer& activation_quantizer() { return activation_; }
  const Quantizer& activation_quantizer() const { return activation_; }
  // Puts a range of the inputs in force; where it is trained, training begins with it.
  void begin_activation(const LayerPrecision& precision, CalibratedRange range);
  // Whether weights of this precision have no range in force although they need one.
  bool weight_lacks_range(const LayerPrecision& precision) const;
  // The same for weights: their own range now, before step `step`.
  void begin_weight(const LayerPrecision& precision, std::int64_t step);
  // What weights are quantized with: fp32, of as many groups as the quantizer has.
  CalibratedRange weight_range(const LayerPrecision& precision) const;
  // fp32 [groups]: what neighbouring codes of weights lie apart by.
  at::Tensor weight_steps(const LayerPrecision& precision) const;
  // The adapter that belongs to weights of this width; null: none. An unquantized layer does not use it.
  const AdapterSlot* adapter(int weight_bits) const;
  // Weight, bias, A, B and trained ranges of a pass, as far as there are any.
  std::vector<int> parameter_ids(const LayerPrecision& precision) const;
  std::vector<at::Tensor> parameters(const LayerPrecision& precision) const;

 private:
  GemmPath path(const LayerPrecision& precision) const;
  // What the product reads of x, [..., in].
  LinearOperand input(const at::Tensor& x, const std::optional<CalibratedRange>& range,
                      const LayerPrecision& precision) const;
  at::Tensor forward_calibrating(const at::Tensor& x, const LayerPrecision& precision, RangeObservers& observers) const;
  // Where a quantizer's gradients follow a rule of its own.
  bool input_has_rule(const LayerPrecision& precision) const;
  bool weight_has_rule(const LayerPrecision& precision) const;
  at::Tensor forward_by_rule(const at::Tensor& x, const ForwardContext& context) const;
  // What this pass quantizes x with: context's range of this layer, x's own in training at running ranges, what is
  // trained, or that in force; none where ranges are dynamic.
  std::optional<CalibratedRange> range(const at::Tensor& x, const ForwardContext& context) const;
  at::Tensor quantized_weight(const LayerPrecision& precision) const;
  // None: the weights' own.
  std::optional<CalibratedRange> held_weight_range(const LayerPrecision& precision) const;
  std::vector<TrainedMember> trained_members(const Quantizer& quantizer, const RangeWidths& widths) const;
  void declare_trained(const Quantizer& quantizer, const RangeWidths& widths, std::vector<TrainedRange>& ranges);
  // Of those widths, as they are now; for others an error.
  CalibratedRange trained_range(const Quantizer& quantizer, const RangeWidths& widths) const;
  void set_trained(const Quantizer& quantizer, const RangeWidths& widths, const CalibratedRange& range);
  const std::vector<int>& trained_ids(const Quantizer& quantizer, const RangeWidths& widths) const;
  std::vector<at::Tensor> trained_tensors(const Quantizer& quantizer, const RangeWidths& widths) const;
  GradientRounding rounding(const LayerPrecision& precision, const ForwardContext& context, int product) const;

  // From context's cache if it has it. later: where to leave work undone that many layers can share, or null.
  std::shared_ptr<const PreparedLinear> prepared(const ForwardContext& context, at::ScalarType dtype,
                                                 PreparationWork* later) const;
  PreparedLinear prepare(const LayerPrecision& precision, bool transposed, at::ScalarType dtype,
                         const PreparedLinear* spare, PreparationWork& work) const;
  // Dynamic scales by row: first memory, that of `spare` if it is not null, then work that fills it.
  void prepare_rows(const LayerPrecision& precision, bool transposed, at::ScalarType dtype, const PreparedLinear* spare,
                    PreparedLinear& out, PreparationWork& work) const;
  PreparedAdapter prepare_adapter(const AdapterSlot& slot, const LayerPrecision& precision, bool transposed,
                                  at::ScalarType dtype) const;
  // On a GPU ranks are filled up with zeros to what its products take.
  std::int64_t product_rank(const AdapterSlot& slot) const;
  PreparedAdapter adapter_memory(std::int64_t rank, at::ScalarType dtype) const;
  LinearOperand operand(const Quantizer& quantizer, const at::Tensor& values, BitWidth width, GemmPath path,
                        bool transposed, at::ScalarType dtype, const CalibratedRange* range = nullptr) const;
  bool in_product(std::int64_t rank, at::ScalarType dtype) const;
  at::Tensor parameter(int id) const { return id >= 0 ? store_->tensor(id) : at::Tensor(); }

  LinearSpec spec_;
  const QuantConfig* quant_;
  ParameterStore* store_;
  Quantizer weight_, lora_a_quantizer_, lora_b_quantizer_;
  Quantizer activation_;  // ranges are put in force outside of passes
  std::vector<AdapterSlot> adapters_;
  std::vector<TrainedRange> trained_weights_, trained_activations_;
};

}  // namespace qat
