// What a step is made of: which passes at which precisions, with which losses, make up which updates. Pure functions of
// what they are told, so that a resumed run plans as the uninterrupted one.
//
//   cpt         one update of one pass, at the width or map of the precision schedule
//   spnet       one update of a pass at every map, each with an equal share of the loss
//   per_map     an update at every map, one after the other, all from the same samples
//   sp          one update of passes at some maps below 32 bits, each with an equal share: train.students of them,
//               drawn at random so that in every round of (maps / students) steps each is trained, but with
//               train.student_draw "sandwich" the narrowest, which is in all steps; and, where
//               distill.teacher_cross_entropy is above 0, of one at 32 bits, with a share as well
//   instantnet  as spnet, from the widest down, so that each can learn from those above it
// All but the first take the maps of quant.maps or, where there are none, each width of quant.widths for all layers. Of
// a map counts its nominal width.
//
// Where passes are taught (src/train/distill_config.h), their teachers' passes come before them in the update. A
// teacher is a pass without dropout: one for the purpose, or, where nothing has dropout, one that trains the same
// before.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "dist/control/step_plan.h"
#include "kernels/common/bit_width.h"
#include "src/quant/quant_config.h"
#include "src/schedule/precision_schedule.h"
#include "src/train/configured_maps.h"
#include "src/train/distill_config.h"
#include "src/train/train_config.h"

namespace qat {

struct RecipeInput {
  const QuantConfig& quant;
  const DistillConfig& distill;
  const std::vector<ConfiguredMap>& maps;  // of quant.maps
  ScheduledBits scheduled;                 // what the precision schedule says for the step
  std::vector<int> scheduled_blocks;       // of each block, where they differ (PrecisionSchedule::block_bits)
  float learning_rate = 0.0F;
  int students = 2;
  StudentDraw student_draw = StudentDraw::kRounds;
  bool dropout = false;  // passes that train have some
  int layers = 0;        // blocks of the model
  std::uint64_t seed = 1;
  std::int64_t step = 0;
};

// The part of a StepPlan that a recipe decides.
struct StepWork {
  std::vector<dist::PlannedWidths> maps;
  std::vector<dist::UpdatePlan> updates;
};

StepWork plan_work(Recipe recipe, const RecipeInput& input);

// What follows is for plans of memory, too, which are made without the rest of training.

// Who teaches in the end: not auto.
inline TeacherChoice teacher_of(Recipe recipe, const DistillConfig& distill) {
  if (distill.teacher != TeacherChoice::kAuto) return distill.teacher;
  if (recipe == Recipe::kSp) return TeacherChoice::kFull;
  return recipe == Recipe::kInstantnet ? TeacherChoice::kWider : TeacherChoice::kNone;
}

// The weight widths that steps of a recipe may have where there are no maps, teachers' among them, ascending. trained:
// quant.widths.
inline std::vector<int> recipe_widths(Recipe recipe, const PrecisionScheduleConfig& schedule,
                                      const DistillConfig& distill, std::vector<int> trained) {
  std::vector<int> widths = std::move(trained);
  if (recipe == Recipe::kCpt) widths = scheduled_widths(schedule, std::move(widths));
  if (recipe == Recipe::kSp) std::erase(widths, BitWidth::kFull);
  const bool full = teacher_of(recipe, distill) != TeacherChoice::kNone ||
                    (recipe == Recipe::kSp && distill.teacher_cross_entropy > 0.0);
  if (full && std::find(widths.begin(), widths.end(), BitWidth::kFull) == widths.end())
    widths.push_back(BitWidth::kFull);
  std::sort(widths.begin(), widths.end());
  return widths;
}

// How many widths' layers a pass may have where there are no maps: more than one where blocks are at different places
// of the schedule.
inline std::int64_t widths_at_once(Recipe recipe, const PrecisionScheduleConfig& schedule,
                                   const std::vector<int>& trained, std::int64_t blocks) {
  if (recipe != Recipe::kCpt || schedule.layer_offset == 0) return 1;
  const std::int64_t widths = std::ssize(scheduled_widths(schedule, trained));
  return std::min(widths, blocks + 1);  // and a head
}

// Of n maps, the narrowest last, those that a step of recipe sp draws: `students` different ones.
std::vector<std::size_t> drawn_students(std::size_t n, int students, StudentDraw draw, std::uint64_t seed,
                                        std::int64_t step);

}  // namespace qat
