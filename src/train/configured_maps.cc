#include "src/train/configured_maps.h"

#include <fmt/format.h>

#include "kernels/common/error.h"
#include "src/base/json.h"

namespace qat {
namespace {

std::string map_key(const std::string& content) { return "map " + content; }

}  // namespace

std::vector<ConfiguredMap> configured_maps(const Gpt2Config& model, const QuantConfig& quant, int gradient_bits) {
  const std::vector<std::string> names = quantized_layer_names(model);
  const BitmapShape shape = model.bitmap_shape();
  std::vector<ConfiguredMap> maps;
  for (std::size_t i = 0; i < quant.maps.size(); ++i) {
    try {
      const BitmapText text = parse_bitmap(quant.maps[i]);
      maps.push_back({.name = text.name,
                      .content = canonical_text(expand(text, shape)),
                      .precision = PrecisionMap::of_bitmap(names, text, shape, quant, gradient_bits),
                      .mean_bits = mean_width(expand(text, shape), shape)});
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("quant.maps[{}] = \"{}\": {}", i, quant.maps[i], error.what()));
    }
  }
  return maps;
}

std::vector<PrecisionChoice> choices_of(const std::vector<ConfiguredMap>& maps) {
  std::vector<PrecisionChoice> choices;
  for (const ConfiguredMap& map : maps)
    choices.push_back({.name = map.name, .weight_bits = map.precision.nominal().weight.bits(), .bits = map.mean_bits});
  return choices;
}

dist::PlannedWidths planned_map(const std::vector<ConfiguredMap>& maps, std::size_t number) {
  const LayerPrecision& nominal = maps.at(number).precision.nominal();
  return {.weight_bits = nominal.weight.bits(),
          .activation_bits = nominal.activation.bits(),
          .gradient_bits = nominal.gradient.bits(),
          .bitmap = static_cast<std::int32_t>(number)};
}

std::vector<PrecisionMap> planned_precision(const std::vector<std::string>& names, const QuantConfig& quant,
                                            const std::vector<ConfiguredMap>& configured,
                                            std::span<const dist::PlannedWidths> planned) {
  std::vector<PrecisionMap> maps;
  for (const dist::PlannedWidths& map : planned) {
    if (!map.block_bits.empty())
      maps.push_back(PrecisionMap::of_blocks(names, map.block_bits,
                                             scheduled_precision(quant, map.weight_bits, map.gradient_bits),
                                             map.gradient_bits, quant));
    else if (map.bitmap != dist::PlannedWidths::kNoBitmap)
      maps.push_back(configured.at(static_cast<std::size_t>(map.bitmap)).precision);
    else
      maps.push_back(PrecisionMap::make(
          names, {BitWidth(map.weight_bits), BitWidth(map.activation_bits), BitWidth(map.gradient_bits)},
          quant.overrides, quant.kv_bits));
  }
  return maps;
}

std::string precision_key(const dist::PlannedWidths& planned, const std::vector<ConfiguredMap>& maps) {
  if (planned.bitmap == dist::PlannedWidths::kNoBitmap) return std::to_string(planned.weight_bits);
  return map_key(maps.at(static_cast<std::size_t>(planned.bitmap)).content);
}

std::vector<std::string> map_keys(const Gpt2Config& model, const std::string& config_json) {
  const Value config = parse_json(config_json, "the checkpoint's configuration", ErrorKind::kCheckpoint);
  const Value* const quant = config.find("quant");
  const Value* const maps = quant == nullptr ? nullptr : quant->find("maps");
  std::vector<std::string> keys;
  if (maps == nullptr) return keys;
  for (const Value& map : maps->as_array()) {
    try {
      keys.push_back(map_key(canonical_text(expand(parse_bitmap(map.as_string()), model.bitmap_shape()))));
    } catch (const Error&) {
      keys.emplace_back();
    }
  }
  return keys;
}

std::string precision_name(const dist::PlannedWidths& planned, const std::vector<ConfiguredMap>& maps) {
  if (planned.bitmap == dist::PlannedWidths::kNoBitmap) return std::to_string(planned.weight_bits);
  return maps.at(static_cast<std::size_t>(planned.bitmap)).name;
}

}  // namespace qat
