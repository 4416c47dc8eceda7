#include "src/quant/precision_map.h"

#include <algorithm>
#include <map>

#include "kernels/common/error.h"
#include "src/base/glob_match.h"

namespace qat {

LayerPrecision scheduled_precision(const QuantConfig& quant, int weight_bits, int gradient_bits) {
  if (weight_bits == BitWidth::kFull) return {};
  const int activation_bits = quant.activation_bits == 0 ? weight_bits : quant.activation_bits;
  return {
      .weight = BitWidth(weight_bits), .activation = BitWidth(activation_bits), .gradient = BitWidth(gradient_bits)};
}

std::vector<LayerPrecision> layer_precisions(const QuantConfig& quant, const std::string& name) {
  std::vector<LayerPrecision> found;
  const auto add = [&](const LayerPrecision& one) {
    if (!one.is_full() && std::find(found.begin(), found.end(), one) == found.end()) found.push_back(one);
  };
  for (const int bits : quant.widths)
    add(PrecisionMap::make({name}, scheduled_precision(quant, bits), quant.overrides).at(0));
  for (const std::string& map : quant.maps) {
    for (const LinearBits& bits : linear_bits(parse_bitmap(map))) {
      LayerPrecision one = scheduled_precision(quant, bits.weight);
      if (bits.activation != kBitsAsConfigured) one.activation = BitWidth(bits.activation);
      add(one);
    }
  }
  return found;
}

namespace {

LayerPrecision overridden(const LayerPrecision& base, const std::string& name,
                          const std::vector<LayerOverride>& overrides) {
  LayerPrecision layer = base;
  if (base.weight.is_full()) return layer;
  for (const LayerOverride& rule : overrides) {
    if (!glob_match(rule.layers, name)) continue;
    if (rule.weight_bits != 0) layer.weight = BitWidth(rule.weight_bits);
    if (rule.activation_bits != 0) layer.activation = BitWidth(rule.activation_bits);
    if (rule.gradient_bits != 0) layer.gradient = BitWidth(rule.gradient_bits);
  }
  return layer;
}

}  // namespace

bool PrecisionMap::uses_weight_bits(int bits) const {
  return nominal_.weight.bits() == bits || std::any_of(layers_.begin(), layers_.end(), [&](const LayerPrecision& one) {
           return one.weight.bits() == bits;
         });
}

BitWidth PrecisionMap::kv_as_configured(std::int64_t block, int kv_bits) const {
  return at(kLinearsPerBlock * block).is_full() ? BitWidth::full() : BitWidth(kv_bits);
}

PrecisionMap::PrecisionMap(std::vector<LayerPrecision> layers, const LayerPrecision& nominal, int kv_bits)
    : layers_(std::move(layers)), nominal_(nominal) {
  for (std::int64_t block = 0; block < size() / kLinearsPerBlock; ++block)
    kv_.push_back(kv_as_configured(block, kv_bits));
}

PrecisionMap PrecisionMap::make(const std::vector<std::string>& layer_names, const LayerPrecision& base,
                                const std::vector<LayerOverride>& overrides, int kv_bits) {
  std::vector<LayerPrecision> layers;
  for (const std::string& name : layer_names) layers.push_back(overridden(base, name, overrides));
  return PrecisionMap(std::move(layers), base, kv_bits);
}

PrecisionMap PrecisionMap::of_blocks(const std::vector<std::string>& layer_names, const std::vector<int>& block_bits,
                                     const LayerPrecision& whole, int gradient_bits, const QuantConfig& quant) {
  const auto linears = static_cast<std::size_t>(kLinearsPerBlock);
  QAT_CHECK((layer_names.size() + linears - 1) / linears == block_bits.size(), "a width for every block, and the head");
  std::vector<LayerPrecision> layers;
  for (std::size_t i = 0; i < layer_names.size(); ++i)
    layers.push_back(overridden(scheduled_precision(quant, block_bits[i / linears], gradient_bits), layer_names[i],
                                quant.overrides));
  return PrecisionMap(std::move(layers), whole, quant.kv_bits);
}

PrecisionMap PrecisionMap::of_bitmap(const std::vector<std::string>& layer_names, const BitmapText& bitmap,
                                     const BitmapShape& shape, const QuantConfig& quant, int gradient_bits) {
  const Bitmap map = expand(bitmap, shape);
  QAT_CHECK(map.linears.size() == layer_names.size(), "a map has the widths of the layers that are named");
  std::vector<LayerPrecision> layers;
  for (std::size_t i = 0; i < layer_names.size(); ++i) {
    const LinearBits& bits = map.linears[i];
    LayerPrecision layer = scheduled_precision(quant, bits.weight, gradient_bits);
    if (bits.activation != kBitsAsConfigured) layer.activation = BitWidth(bits.activation);
    layer.gradient = layer.is_full() ? BitWidth::full() : BitWidth(gradient_bits);
    for (const LayerOverride& rule : quant.overrides)
      if (rule.gradient_bits != 0 && !layer.is_full() && glob_match(rule.layers, layer_names[i]))
        layer.gradient = BitWidth(rule.gradient_bits);
    layers.push_back(layer);
  }
  // A layer of the nominal width, with the activations that most products of that width have.
  const int nominal = nominal_width(map, shape);
  std::map<BitWidth, std::int64_t> macs;
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (layers[i].weight.bits() == nominal) macs[layers[i].activation] += shape.macs(static_cast<std::int64_t>(i));
  LayerPrecision whole{.weight = BitWidth(nominal), .activation = macs.begin()->first, .gradient = BitWidth::full()};
  for (const auto& [activation, sum] : macs)
    if (sum >= macs[whole.activation]) whole.activation = activation;
  if (!whole.is_full()) whole.gradient = BitWidth(gradient_bits);
  PrecisionMap out(std::move(layers), whole, quant.kv_bits);
  for (std::size_t block = 0; block < map.kv.size(); ++block)
    if (map.kv[block] != kBitsAsConfigured) out.kv_[block] = BitWidth(map.kv[block]);
  return out;
}

PrecisionMap PrecisionMap::uniform(std::int64_t layers, int weight, int activation, int gradient, int kv_bits) {
  const LayerPrecision all{BitWidth(weight), BitWidth(activation), BitWidth(gradient)};
  return PrecisionMap(std::vector<LayerPrecision>(static_cast<std::size_t>(layers), all), all, kv_bits);
}

}  // namespace qat
