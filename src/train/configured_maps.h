// The maps of quant.maps, laid over the run's model.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "dist/control/step_plan.h"
#include "src/model/gpt2_config.h"
#include "src/quant/precision_map.h"
#include "src/schedule/switching.h"

namespace qat {

struct ConfiguredMap {
  std::string name;        // that metrics call it by
  std::string content;     // its widths as canonical_text() has them: the same map in any other run
  PrecisionMap precision;  // with the run's gradient bits
  double mean_bits = 0.0;  // of weights, over multiply-accumulates
};

// In the order of quant.maps. Throws Error(kConfig), naming the key, for a map that does not fit the model.
std::vector<ConfiguredMap> configured_maps(const Gpt2Config& model, const QuantConfig& quant, int gradient_bits);

// As a schedule switches between them.
std::vector<PrecisionChoice> choices_of(const std::vector<ConfiguredMap>& maps);

// What a step's plan calls the map of that number.
dist::PlannedWidths planned_map(const std::vector<ConfiguredMap>& maps, std::size_t number);

// The precision of every linear layer in each of these maps of a step's plan. names: quantized_layer_names of the
// model.
std::vector<PrecisionMap> planned_precision(const std::vector<std::string>& names, const QuantConfig& quant,
                                            const std::vector<ConfiguredMap>& configured,
                                            std::span<const dist::PlannedWidths> planned);

// A text that tells precisions apart, whatever they are called and in what order they are configured: "8", "map 8x4".
std::string precision_key(const dist::PlannedWidths& planned, const std::vector<ConfiguredMap>& maps);

// Of a checkpoint's configuration, in JSON, for a model of the same shape: the keys of its quant.maps in their order;
// "" for one that is none.
std::vector<std::string> map_keys(const Gpt2Config& model, const std::string& config_json);

// What a planned precision is called: "8", or the map's name.
std::string precision_name(const dist::PlannedWidths& planned, const std::vector<ConfiguredMap>& maps);

}  // namespace qat
