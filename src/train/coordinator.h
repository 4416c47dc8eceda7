// Rank 0's policy: what each step is. A pure function of the options and the step, so that a resumed run decides as the
// uninterrupted one. What a step is made of is the recipe's (recipe.h).
#pragma once

#include <cstdint>
#include <vector>

#include "dist/control/step_plan.h"
#include "src/schedule/lr_schedule.h"
#include "src/schedule/precision_schedule.h"
#include "src/train/recipe.h"
#include "src/train/trainer_options.h"

namespace qat {

// How far a run is. The batch size may have changed on the way, so neither number follows from the other.
struct RunPosition {
  std::int64_t step = 0;     // steps finished
  std::int64_t samples = 0;  // sequences consumed, over all ranks
};

class Coordinator {
 public:
  // windows_per_epoch: samples in one pass over the training tokens. start: where this process takes the run up; the
  // rest of it has the batch size of the options. maps: those of quant.maps. Throws Error(kConfig) for a schedule that
  // does not fit the data.
  Coordinator(const TrainerOptions& options, std::int64_t windows_per_epoch, RunPosition start = {},
              std::vector<ConfiguredMap> maps = {});

  // The step that comes next at `position`.
  dist::StepPlan plan(RunPosition position) const;
  const PrecisionSchedule& precision() const { return precision_; }
  // Where the step at `position` lies in the precision's cycles; nothing where the recipe or the schedule has none.
  std::optional<PrecisionSchedule::Phase> phase(RunPosition position) const;

 private:
  std::int64_t unit_of(RunPosition position) const;
  StepWork work_at(RunPosition position) const;

  TrainerOptions options_;
  std::vector<ConfiguredMap> maps_;
  std::int64_t windows_per_epoch_;
  PrecisionSchedule precision_;
  LrSchedule lr_;
};

}  // namespace qat
