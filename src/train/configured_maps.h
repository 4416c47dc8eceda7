// The maps of quant.maps, laid over the run's model.
#pragma once

#include <string>
#include <vector>

#include "dist/control/step_plan.h"
#include "src/model/gpt2_config.h"
#include "src/quant/precision_map.h"
#include "src/schedule/switching.h"

namespace qat {

struct ConfiguredMap {
  std::string name;        // that metrics call it by
  PrecisionMap precision;  // with the run's gradient bits
  double mean_bits = 0.0;  // of weights, over multiply-accumulates
};

// In the order of quant.maps. Throws Error(kConfig), naming the key, for a map that does not fit the model.
std::vector<ConfiguredMap> configured_maps(const Gpt2Config& model, const QuantConfig& quant, int gradient_bits);

// As a schedule switches between them.
std::vector<PrecisionChoice> choices_of(const std::vector<ConfiguredMap>& maps);

// What a step's plan calls the map of that number.
dist::PlannedWidths planned_map(const std::vector<ConfiguredMap>& maps, std::size_t number);

// A number that tells a run's precisions apart: the width, or one beyond all widths for each map.
int precision_key(const dist::PlannedWidths& planned);

// What a planned precision is called: "8", or the map's name.
std::string precision_name(const dist::PlannedWidths& planned, const std::vector<ConfiguredMap>& maps);

}  // namespace qat
