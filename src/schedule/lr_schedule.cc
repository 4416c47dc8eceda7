#include "src/schedule/lr_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <numbers>
#include <span>
#include <utility>

#include "kernels/common/error.h"

namespace qat {
namespace {

template <typename T>
ScheduleFault fault(const char* key, const T& value, std::string rule, std::vector<std::string> also = {},
                    std::string element = "") {
  return {std::string("lr.") + key, std::move(rule), std::move(also), std::move(element), fmt::format("{}", value)};
}

void milestone_faults(const LrScheduleConfig& config, std::int64_t total_steps, std::vector<ScheduleFault>& found) {
  const std::vector<LrMilestone>& milestones = config.milestones;
  if (milestones.empty())
    found.push_back(fault("milestones", "[]", "must not be empty for lr.decay \"piecewise\"", {"lr.decay"}));
  std::int64_t before = config.warmup_steps - 1;
  for (std::size_t i = 0; i < milestones.size(); ++i) {
    const auto& [step, factor] = milestones[i];
    const std::string at = fmt::format("[{}]", i);
    if (step <= before)
      found.push_back(fault("milestones", step,
                            i == 0 ? fmt::format("must not be before the end of warm-up, step {}", config.warmup_steps)
                                   : fmt::format("must be above {}, the milestone before it", before),
                            {"lr.warmup_steps"}, at + ".step"));
    else if (step >= total_steps)
      found.push_back(fault("milestones", step, fmt::format("must be below train.steps, {}", total_steps),
                            {"train.steps"}, at + ".step"));
    if (!(factor >= 0.0 && config.peak * factor <= std::numeric_limits<float>::max()))
      found.push_back(fault("milestones", factor, "must not be negative, and times lr.peak within what fp32 holds",
                            {"lr.peak"}, at + ".factor"));
    before = step;
  }
}

}  // namespace

std::vector<ScheduleFault> lr_faults(const LrScheduleConfig& config, std::int64_t total_steps) {
  std::vector<ScheduleFault> found;
  if (!std::isfinite(config.peak) || config.peak < 0.0)
    found.push_back(fault("peak", config.peak, "must be a finite number, not negative"));
  if (!(config.min_ratio >= 0.0 && config.min_ratio <= 1.0))
    found.push_back(fault("min_ratio", config.min_ratio, "must be between 0 and 1"));
  if (config.warmup_steps < 0) found.push_back(fault("warmup_steps", config.warmup_steps, "must not be negative"));
  if (config.warmup_steps > total_steps)
    found.push_back(fault("warmup_steps", config.warmup_steps, "must not exceed train.steps", {"train.steps"}));
  if (config.decay == LrDecay::kPiecewise) milestone_faults(config, total_steps, found);
  return found;
}

LrSchedule::LrSchedule(const LrScheduleConfig& config, std::int64_t total_steps)
    : config_(config), total_steps_(total_steps) {
  QAT_CHECK(total_steps_ >= 0, "a schedule has no negative length");
  for (const ScheduleFault& fault : lr_faults(config_, total_steps_))
    throw Error(ErrorKind::kConfig, fmt::format("{}{} = {}: {}", fault.key, fault.element, fault.value, fault.rule));
}

double LrSchedule::at(std::int64_t step) const {
  QAT_CHECK(step >= 0, "schedules begin at step 0");
  const std::int64_t warmup = config_.warmup_steps;
  if (step < warmup) return config_.peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (config_.decay == LrDecay::kConstant) return config_.peak;
  if (config_.decay == LrDecay::kPiecewise) {
    const auto next = std::find_if(config_.milestones.begin(), config_.milestones.end(),
                                   [step](const LrMilestone& one) { return one.step > step; });
    return config_.peak * (next == config_.milestones.begin() ? 1.0 : std::prev(next)->factor);
  }
  const std::int64_t last = total_steps_ - 1 - warmup;
  // One step after warm-up, or none: it is the last, and has the last step's rate.
  const double x = last > 0 ? std::min(1.0, static_cast<double>(step - warmup) / static_cast<double>(last)) : 1.0;
  const double lowest = config_.peak * config_.min_ratio;
  if (x == 1.0) return lowest;  // not 1 + cos(pi), which is not exactly 0 everywhere
  if (config_.decay == LrDecay::kLinear) return config_.peak + (lowest - config_.peak) * x;
  return lowest + (config_.peak - lowest) * 0.5 * (1.0 + std::cos(std::numbers::pi * x));
}

double width_factor(const LrScheduleConfig& config, int bits) {
  const auto find = [bits](std::span<const WidthFactor> list) {
    const auto found = std::find_if(list.begin(), list.end(), [&](const WidthFactor& one) { return one.bits == bits; });
    return found == list.end() ? nullptr : &*found;
  };
  static constexpr std::array<WidthFactor, 4> kUp{{{4, 4.0}, {8, 2.0}, {16, 1.5}, {32, 1.0}}};
  static constexpr std::array<WidthFactor, 4> kDown{{{2, 0.5}, {4, 0.75}, {8, 1.0}, {16, 1.0}}};
  if (const WidthFactor* own = find(config.scale_per_width)) return own->factor;
  const WidthFactor* preset = nullptr;
  if (config.scale_preset == LrScale::kUp) preset = find(kUp);
  if (config.scale_preset == LrScale::kDown) preset = find(kDown);
  return preset == nullptr ? 1.0 : preset->factor;
}

}  // namespace qat
