#include "src/schedule/lr_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <span>

#include "kernels/common/error.h"

namespace qat {
namespace {

void require(bool condition, const char* key, const std::string& value, const std::string& rule) {
  if (!condition) throw Error(ErrorKind::kConfig, fmt::format("lr.{} is {}: {}", key, value, rule));
}

}  // namespace

LrSchedule::LrSchedule(const LrScheduleConfig& config, std::int64_t total_steps)
    : config_(config), total_steps_(total_steps) {
  QAT_CHECK(total_steps_ >= 0, "a schedule has no negative length");
  require(std::isfinite(config_.peak) && config_.peak >= 0.0, "peak", fmt::format("{}", config_.peak),
          "must be a finite number, not negative");
  require(config_.min_ratio >= 0.0 && config_.min_ratio <= 1.0, "min_ratio", fmt::format("{}", config_.min_ratio),
          "must be between 0 and 1");
  require(config_.warmup_steps >= 0 && config_.warmup_steps <= total_steps_, "warmup_steps",
          fmt::format("{}", config_.warmup_steps), fmt::format("must be 0..train.steps ({})", total_steps_));
}

double LrSchedule::at(std::int64_t step) const {
  QAT_CHECK(step >= 0, "schedules begin at step 0");
  const std::int64_t warmup = config_.warmup_steps;
  if (step < warmup) return config_.peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (config_.decay == LrDecay::kConstant) return config_.peak;
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
