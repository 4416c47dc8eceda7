#include "src/quant/precision_map.h"

#include <algorithm>
#include <set>

#include "src/base/glob_match.h"

namespace qat {

LayerPrecision scheduled_precision(const QuantConfig& quant, int weight_bits, int gradient_bits) {
  if (weight_bits == BitWidth::kFull) return {};
  const int activation_bits = quant.activation_bits == 0 ? weight_bits : quant.activation_bits;
  return {
      .weight = BitWidth(weight_bits), .activation = BitWidth(activation_bits), .gradient = BitWidth(gradient_bits)};
}

std::vector<int> quantized_weight_widths(const QuantConfig& quant) {
  std::set<int> widths(quant.widths.begin(), quant.widths.end());
  for (const LayerOverride& rule : quant.overrides)
    if (rule.weight_bits != 0) widths.insert(rule.weight_bits);
  widths.erase(BitWidth::kFull);
  return {widths.begin(), widths.end()};
}

std::vector<LayerPrecision> layer_precisions(const QuantConfig& quant, const std::string& name) {
  std::vector<LayerPrecision> found;
  for (const int bits : quant.widths) {
    const LayerPrecision one = PrecisionMap::make({name}, scheduled_precision(quant, bits), quant.overrides).at(0);
    if (!one.is_full() && std::find(found.begin(), found.end(), one) == found.end()) found.push_back(one);
  }
  return found;
}

bool PrecisionMap::uses_weight_bits(int bits) const {
  return nominal_.weight.bits() == bits || std::any_of(layers_.begin(), layers_.end(), [&](const LayerPrecision& one) {
           return one.weight.bits() == bits;
         });
}

PrecisionMap PrecisionMap::make(const std::vector<std::string>& layer_names, const LayerPrecision& base,
                                const std::vector<LayerOverride>& overrides) {
  std::vector<LayerPrecision> layers(layer_names.size(), base);
  if (base.weight.is_full()) return PrecisionMap(std::move(layers), base);
  for (const LayerOverride& rule : overrides) {
    for (std::size_t i = 0; i < layer_names.size(); ++i) {
      if (!glob_match(rule.layers, layer_names[i])) continue;
      if (rule.weight_bits != 0) layers[i].weight = BitWidth(rule.weight_bits);
      if (rule.activation_bits != 0) layers[i].activation = BitWidth(rule.activation_bits);
      if (rule.gradient_bits != 0) layers[i].gradient = BitWidth(rule.gradient_bits);
    }
  }
  return PrecisionMap(std::move(layers), base);
}

PrecisionMap PrecisionMap::uniform(std::int64_t layers, int weight, int activation, int gradient) {
  const LayerPrecision all{BitWidth(weight), BitWidth(activation), BitWidth(gradient)};
  return PrecisionMap(std::vector<LayerPrecision>(static_cast<std::size_t>(layers), all), all);
}

}  // namespace qat
