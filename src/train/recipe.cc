#include "src/train/recipe.h"

#include "kernels/common/error.h"
#include "src/quant/precision_map.h"

namespace qat {
namespace {

dist::PlannedWidths planned(const QuantConfig& quant, int weight_bits, int gradient_bits) {
  const LayerPrecision precision = scheduled_precision(quant, weight_bits, gradient_bits);
  return {.weight_bits = precision.weight.bits(),
          .activation_bits = precision.activation.bits(),
          .gradient_bits = precision.gradient.bits()};
}

std::vector<dist::PlannedWidths> all_maps(const RecipeInput& input) {
  std::vector<dist::PlannedWidths> maps;
  for (std::size_t i = 0; i < input.maps.size(); ++i) maps.push_back(planned_map(input.maps, i));
  if (!maps.empty()) return maps;
  for (const int bits : input.quant.widths) maps.push_back(planned(input.quant, bits, input.scheduled.gradient));
  return maps;
}

StepWork cpt(const RecipeInput& input) {
  const ScheduledBits& bits = input.scheduled;
  return {.maps = {bits.map < 0 ? planned(input.quant, bits.weight, bits.gradient)
                                : planned_map(input.maps, static_cast<std::size_t>(bits.map))},
          .updates = {{.passes = {{.map = 0}}, .learning_rate = input.learning_rate}}};
}

StepWork spnet(const RecipeInput& input) {
  StepWork work{.maps = all_maps(input), .updates = {{.passes = {}, .learning_rate = input.learning_rate}}};
  const double share = 1.0 / static_cast<double>(work.maps.size());
  for (std::uint32_t map = 0; map < work.maps.size(); ++map)
    work.updates[0].passes.push_back({.map = map, .loss = {.cross_entropy = share}});
  return work;
}

StepWork per_map(const RecipeInput& input) {
  StepWork work{.maps = all_maps(input), .updates = {}};
  for (std::uint32_t map = 0; map < work.maps.size(); ++map)
    work.updates.push_back({.passes = {{.map = map}}, .learning_rate = input.learning_rate});
  return work;
}

}  // namespace

StepWork plan_work(Recipe recipe, const RecipeInput& input) {
  switch (recipe) {
    case Recipe::kCpt:
      return cpt(input);
    case Recipe::kSpnet:
      return spnet(input);
    case Recipe::kPerMap:
      return per_map(input);
  }
  throw Error(ErrorKind::kInternal, "internal error: a recipe without a plan");
}

}  // namespace qat
