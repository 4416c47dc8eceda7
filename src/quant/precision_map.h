// Widths of every quantized linear layer, and of every block's keys and values, in one pass. A value: it travels with
// the pass and is never a setting of the model, so that two passes in flight cannot see each other's widths.
#pragma once

#include <string>
#include <vector>

#include "kernels/common/bit_width.h"
#include "src/bitmap/bitmap.h"
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

// The precisions, apart from the unquantized one, that the layer of this name can have at the configured widths, and
// those that a layer has in one of the maps.
std::vector<LayerPrecision> layer_precisions(const QuantConfig& quant, const std::string& name);

class PrecisionMap {
 public:
  PrecisionMap() = default;

  // Every layer at `base`, then the overrides in order. An unquantized step (base.weight 32) stays unquantized: it is
  // the reference that quantized widths are compared with, and overrides do not apply. kv_bits: of every block but
  // those that are unquantized throughout (the first of their layers is).
  static PrecisionMap make(const std::vector<std::string>& layer_names, const LayerPrecision& base,
                           const std::vector<LayerOverride>& overrides, int kv_bits = BitWidth::kFull);
  // The map's widths; quant.activation_bits and quant.kv_bits where it leaves them open. gradient_bits: of the layers
  // that are quantized, but for what overrides say of gradients; their other widths do not apply. Counts as at
  // nominal_width(). Throws Error(kConfig) for a map that does not fit (src/bitmap/bitmap.h).
  static PrecisionMap of_bitmap(const std::vector<std::string>& layer_names, const BitmapText& bitmap,
                                const BitmapShape& shape, const QuantConfig& quant, int gradient_bits);
  // Block b at block_bits[b], which is the width of a pass for it (scheduled_precision; overrides and
  // quant.kv_bits as in make()), a quantized head at the last one. Counts as `whole`.
  static PrecisionMap of_blocks(const std::vector<std::string>& layer_names, const std::vector<int>& block_bits,
                                const LayerPrecision& whole, int gradient_bits, const QuantConfig& quant);
  static PrecisionMap uniform(std::int64_t layers, int weight, int activation, int gradient = BitWidth::kFull,
                              int kv_bits = BitWidth::kFull);

  const LayerPrecision& at(std::int64_t layer) const { return layers_.at(static_cast<std::size_t>(layer)); }
  std::int64_t size() const { return static_cast<std::int64_t>(layers_.size()); }
  // What the pass as a whole is at, whatever single layers say.
  const LayerPrecision& nominal() const { return nominal_; }
  // Of a block's keys and values.
  BitWidth kv(std::int64_t block) const { return kv_.at(static_cast<std::size_t>(block)); }
  // Whether some layer, or the pass as a whole, has weights of this width.
  bool uses_weight_bits(int bits) const;

 private:
  PrecisionMap(std::vector<LayerPrecision> layers, const LayerPrecision& nominal, int kv_bits);
  // Keys and values of an unquantized block are unquantized, unless a map says otherwise.
  BitWidth kv_as_configured(std::int64_t block, int kv_bits) const;

  std::vector<LayerPrecision> layers_;
  std::vector<BitWidth> kv_;
  LayerPrecision nominal_;
};

}  // namespace qat
