// One quantized linear layer with its adapter slot, as cyclic precision training uses it (docs/numerics.md):
//
//   32 bits:  y = x W^T + b                                              no adapter
//   else:     y = x^ W^^T + b + (alpha / r) (x^ A^^T) B^^T               ^: quantized at this pass's widths
//
// Differs from the system it follows: A and B have scales of their own, refreshed whenever they are used, and A starts
// from U(-1/sqrt(in), 1/sqrt(in)); B starts at zero.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/quant/encode_batch.h"
#include "kernels/quant/prepare_adapters.h"
#include "src/model/forward_context.h"
#include "src/model/fused_block.h"
#include "src/model/gpt2_config.h"
#include "src/model/parameter_store.h"
#include "src/quant/autograd_ops.h"
#include "src/quant/gemm_path.h"
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
};

// Work of QuantLinear's preparation, collected over layers.
struct PreparationWork {
  std::vector<kernels::EncodeRowsJob> weights;
  std::vector<kernels::AdapterJob> adapters;
};

class QuantLinear {
 public:
  // Declares the adapter in `store`; weight and bias are declared by the caller.
  QuantLinear(LinearSpec spec, const QuantConfig& quant, const LoraConfig& lora, ParameterStore& store);

  // Whether the fused blocks can run this layer in this pass: unquantized, or codes with dynamic scales per channel and
  // token, gradients on codes, and an adapter whose rank the integer product takes.
  bool can_fuse(const ForwardContext& context) const;
  // The layer as the fused blocks want it; weights are prepared once for as long as context's cache lives.
  FusedLinear fused(const ForwardContext& context, at::ScalarType dtype) const;

  // The same for many layers ahead of their use: all weights, and all adapters, are prepared by a launch or two. Needs
  // context's cache, and layers that can fuse.
  static void prepare_all(std::span<const QuantLinear> linears, const ForwardContext& context, at::ScalarType dtype);

  // x: [..., in] -> [..., out].
  at::Tensor forward(const at::Tensor& x, const ForwardContext& context) const;

  const LinearSpec& spec() const { return spec_; }
  Quantizer& activation_quantizer() { return activation_; }
  const Quantizer& activation_quantizer() const { return activation_; }
  int lora_a() const { return lora_a_; }  // parameter ids; -1 without an adapter
  int lora_b() const { return lora_b_; }

 private:
  at::Tensor forward_codes(const at::Tensor& x, const LayerPrecision& precision, const ForwardContext& context) const;
  at::Tensor forward_wide(const at::Tensor& x, const LayerPrecision& precision, const ForwardContext& context) const;
  at::Tensor forward_floats(const at::Tensor& x, const LayerPrecision& precision, const ForwardContext& context) const;
  at::Tensor forward_calibrating(const at::Tensor& x, const LayerPrecision& precision, RangeObservers& observers) const;
  // This layer's range of context.ranges, or null.
  const CalibratedRange* own_range(const ForwardContext& context) const;
  // (alpha / r) h B^^T, h = x^ A^^T: [..., r].
  at::Tensor adapter_out(const at::Tensor& h, const LayerPrecision& precision, const ForwardContext& context) const;
  at::Tensor adapter_a(const LayerPrecision& precision, const ForwardContext& context) const;
  GemmPath path(const LayerPrecision& precision) const;
  PreparedLinear plain(at::ScalarType dtype) const;
  // What the fused blocks want of a layer on codes: first memory, then what fills it. The adapter's form follows the
  // shapes: inside the layer's product where the device has one.
  PreparedLinear memory_for_codes(bool transposed, at::ScalarType dtype) const;
  void prepare_codes(const LayerPrecision& precision, bool transposed, at::ScalarType dtype, PreparedLinear& out,
                     PreparationWork& work) const;
  // From context's cache if it has them. later: where to leave the work undone, or null: it is done at once.
  std::shared_ptr<const PreparedLinear> prepared(const ForwardContext& context, at::ScalarType dtype,
                                                 PreparationWork* later) const;
  bool adapter_in_product(at::ScalarType dtype) const;
  GradientRounding rounding(const LayerPrecision& precision, const ForwardContext& context, int product) const;
  // x on the values that `width` leaves, its gradient straight through; x itself at 32 bits.
  at::Tensor fake_quantized(const Quantizer& quantizer, const at::Tensor& x, BitWidth width,
                            const CalibratedRange* range = nullptr) const;
  at::Tensor quantized_weight(const LayerPrecision& precision) const;
  at::Tensor bias() const { return spec_.bias >= 0 ? store_->tensor(spec_.bias) : at::Tensor(); }

  LinearSpec spec_;
  const QuantConfig* quant_;
  ParameterStore* store_;
  Quantizer weight_, lora_a_quantizer_, lora_b_quantizer_;
  Quantizer activation_;  // calibrated ranges are put in force outside of passes
  int lora_a_ = -1, lora_b_ = -1;
  bool quantize_lora_ = true;
  double lora_scaling_ = 0.0;
};

}  // namespace qat
