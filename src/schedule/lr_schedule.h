// The learning rate of each step, and what widths make of it. Pure: a function of the configuration and the step.
#pragma once

#include <cstdint>
#include <vector>

#include "src/schedule/schedule_config.h"
#include "src/schedule/schedule_rules.h"

namespace qat {

// With W = warmup_steps and N = total_steps:
//   step s < W:   peak * (s + 1) / W, so that step 0 already moves and step W-1 has the peak
//   then, with x = (s - W) / (N - 1 - W) from 0 at step W to 1 at the last step, and m = peak * min_ratio:
//     cosine     m + (peak - m) (1 + cos(pi x)) / 2
//     linear     peak + (m - peak) x
//     constant   peak (min_ratio has no effect)
//     piecewise  peak * the factor of the last milestone at or before s, peak before the first (nor has it here)
class LrSchedule {
 public:
  // Throws Error(kConfig), naming the key, for a schedule that makes no sense.
  LrSchedule(const LrScheduleConfig& config, std::int64_t total_steps);

  // step >= 0; steps past the total keep the last step's rate.
  double at(std::int64_t step) const;

 private:
  LrScheduleConfig config_;
  std::int64_t total_steps_ = 0;
};

// What keeps the rates from being followed, in a run of so many steps.
std::vector<ScheduleFault> lr_faults(const LrScheduleConfig& config, std::int64_t total_steps);

// What multiplies the rate for weights of this width: its entry in scale_per_width, else the preset's; 1 where neither
// names it.
double width_factor(const LrScheduleConfig& config, int bits);

}  // namespace qat
