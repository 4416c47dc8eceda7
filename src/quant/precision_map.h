// Widths of every quantized linear layer in one pass. A value: it travels with the pass and is never a setting of the
// model, so that two passes in flight cannot see each other's widths.
#pragma once

#include <string>
#include <vector>

#include "kernels/common/bit_width.h"
#include "src/quant/quant_config.h"

namespace qat {

struct LayerPrecision {
  BitWidth weight = BitWidth::full();
  BitWidth activation = BitWidth::full();
  BitWidth gradient = BitWidth::full();

  // Nothing of this layer is quantized: it computes y = x W^T + b, without an adapter.
  bool is_full() const { return weight.is_full() && activation.is_full(); }
  friend bool operator==(const LayerPrecision&, const LayerPrecision&) = default;
};

// A pass at `weight_bits`: activations have the same width unless quant.activation_bits says otherwise; 32 leaves
// everything unquantized.
LayerPrecision scheduled_precision(const QuantConfig& quant, int weight_bits, int gradient_bits = BitWidth::kFull);

// Every width below 32 that a layer's weights can have: the configured ones and those of overrides, rising.
std::vector<int> quantized_weight_widths(const QuantConfig& quant);

// The precisions, apart from the unquantized one, that the layer of this name can have at the configured widths.
std::vector<LayerPrecision> layer_precisions(const QuantConfig& quant, const std::string& name);

class PrecisionMap {
 public:
  PrecisionMap() = default;
  // nominal: what the pass as a whole is at, whatever single layers say.
  PrecisionMap(std::vector<LayerPrecision> layers, const LayerPrecision& nominal)
      : layers_(std::move(layers)), nominal_(nominal) {}

  // Every layer at `base`, then the overrides in order. An unquantized step (base.weight 32) stays unquantized: it is
  // the reference that quantized widths are compared with, and overrides do not apply.
  static PrecisionMap make(const std::vector<std::string>& layer_names, const LayerPrecision& base,
                           const std::vector<LayerOverride>& overrides);
  static PrecisionMap uniform(std::int64_t layers, int weight, int activation, int gradient = BitWidth::kFull);

  const LayerPrecision& at(std::int64_t layer) const { return layers_.at(static_cast<std::size_t>(layer)); }
  std::int64_t size() const { return static_cast<std::int64_t>(layers_.size()); }
  const LayerPrecision& nominal() const { return nominal_; }
  // Whether some layer, or the pass as a whole, has weights of this width.
  bool uses_weight_bits(int bits) const;

 private:
  std::vector<LayerPrecision> layers_;
  LayerPrecision nominal_;
};

}  // namespace qat
