// What a step is made of: which passes at which precisions, with which losses, make up which updates. Pure functions of
// what they are told, so that a resumed run plans as the uninterrupted one.
//
//   cpt         one update of one pass, at the width of the precision schedule
//   spnet       one update of a pass at every trained width, each with an equal share of the loss
//   per_map     an update at every trained width, one after the other, all from the same samples
//   sp          one update of passes at some widths below 32, each with an equal share: train.students of them, drawn
//               at random so that in every round of (widths / students) steps each is trained; and, where
//               distill.teacher_cross_entropy is above 0, of one at 32 bits, with a share as well
//   instantnet  as spnet, from the widest down, so that each width can learn from those above it
//
// Where passes are taught (src/train/distill_config.h), their teachers' passes come before them in the update. A
// teacher is a pass without dropout: one for the purpose, or, where nothing has dropout, one that trains at its width
// before.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "dist/control/step_plan.h"
#include "src/quant/quant_config.h"
#include "src/schedule/precision_schedule.h"
#include "src/train/distill_config.h"
#include "src/train/train_config.h"

namespace qat {

struct RecipeInput {
  const QuantConfig& quant;
  const DistillConfig& distill;
  ScheduledBits scheduled;  // what the precision schedule says for the step
  float learning_rate = 0.0F;
  int students = 2;
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

// Who teaches in the end: not auto.
TeacherChoice teacher_of(Recipe recipe, const DistillConfig& distill);

// The weight widths that steps of a recipe may have, teachers' among them, ascending. trained: quant.widths.
std::vector<int> recipe_widths(Recipe recipe, const PrecisionScheduleConfig& schedule, const DistillConfig& distill,
                               std::vector<int> trained);

// The widths that steps of recipe sp draw from: those below 32, descending.
std::vector<int> student_widths(const std::vector<int>& trained);
// Those that a step draws: `students` different ones, descending.
std::vector<int> drawn_students(const std::vector<int>& widths, int students, std::uint64_t seed, std::int64_t step);

}  // namespace qat
