// Rank 0's policy: what each step is. A pure function of the options and the step, so that a resumed run decides as the
// uninterrupted one.
#pragma once

#include <cstdint>

#include "dist/control/step_plan.h"
#include "src/schedule/lr_schedule.h"
#include "src/schedule/precision_schedule.h"
#include "src/train/trainer_options.h"

namespace qat {

class Coordinator {
 public:
  // windows_per_epoch: samples in one pass over the training tokens.
  Coordinator(const TrainerOptions& options, std::int64_t windows_per_epoch);

  dist::StepPlan plan(std::int64_t step) const;
  const PrecisionSchedule& precision() const { return precision_; }

 private:
  std::int64_t unit_of(std::int64_t step) const;

  TrainerOptions options_;
  std::int64_t windows_per_epoch_;
  PrecisionSchedule precision_;
  LrSchedule lr_;
};

}  // namespace qat
