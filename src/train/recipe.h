// What a step is made of: which passes at which precisions, with which losses, make up which updates. Pure functions of
// what they are told, so that a resumed run plans as the uninterrupted one.
//
//   cpt      one update of one pass, at the width or map of the precision schedule
//   spnet    one update of a pass at every map, each with an equal share of the loss
//   per_map  an update at every map, one after the other, all from the same samples
// The last two take the maps of quant.maps or, where there are none, each width of quant.widths for all layers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "dist/control/step_plan.h"
#include "src/quant/quant_config.h"
#include "src/schedule/precision_schedule.h"
#include "src/train/configured_maps.h"
#include "src/train/train_config.h"

namespace qat {

struct RecipeInput {
  const QuantConfig& quant;
  const std::vector<ConfiguredMap>& maps;  // of quant.maps
  ScheduledBits scheduled;                 // what the precision schedule says for the step
  float learning_rate = 0.0F;
};

// The part of a StepPlan that a recipe decides.
struct StepWork {
  std::vector<dist::PlannedWidths> maps;
  std::vector<dist::UpdatePlan> updates;
};

StepWork plan_work(Recipe recipe, const RecipeInput& input);

// The weight widths that steps of a recipe may have where there are no maps, ascending. trained: quant.widths.
inline std::vector<int> recipe_widths(Recipe recipe, const PrecisionScheduleConfig& schedule,
                                      std::vector<int> trained) {
  if (recipe == Recipe::kCpt) return scheduled_widths(schedule, std::move(trained));
  std::sort(trained.begin(), trained.end());
  return trained;
}

}  // namespace qat
