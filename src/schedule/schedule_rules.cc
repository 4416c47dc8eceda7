#include "src/schedule/schedule_rules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "kernels/common/bit_width.h"

namespace qat {
namespace {

class Rules {
 public:
  Rules(const PrecisionScheduleConfig& config, const std::vector<int>& widths, std::optional<std::int64_t> units)
      : c_(config), widths_(widths), units_(units) {}

  std::vector<ScheduleFault> run() {
    widths();
    gradients();
    if (c_.kind != ScheduleKind::kConstant) cycles();
    return std::move(found_);
  }

 private:
  using Keys = std::vector<std::string>;

  template <typename T>
  void fault(const char* key, const T& value, std::string rule, Keys also = {}, std::string element = "") {
    found_.push_back({std::string("precision.") + key, std::move(rule), std::move(also), std::move(element),
                      fmt::format("{}", value)});
  }
  bool trained(int bits) const { return std::find(widths_.begin(), widths_.end(), bits) != widths_.end(); }
  void trained_bound(const char* key, int bits) {
    if (!trained(bits)) fault(key, bits, "must be one of quant.widths", {"quant.widths", "precision.kind"});
  }

  void widths() {
    if (c_.kind == ScheduleKind::kList) {
      if (c_.list.empty()) fault("list", "[]", "must not be empty for precision.kind \"list\"", {"precision.kind"});
      for (std::size_t i = 0; i < c_.list.size(); ++i)
        if (!trained(c_.list[i]))
          fault("list", c_.list[i], "must be one of quant.widths", {"quant.widths"}, fmt::format("[{}]", i));
      return;
    }
    if (c_.kind != ScheduleKind::kConstant) {
      trained_bound("min_bits", c_.min_bits);
      if (c_.min_bits > c_.max_bits)
        fault("min_bits", c_.min_bits, "must not exceed precision.max_bits", {"precision.max_bits"});
    }
    trained_bound("max_bits", c_.max_bits);
  }

  void gradients() {
    const auto valid = [&](const char* key, int bits) {
      if (!BitWidth::is_valid(bits)) fault(key, bits, "must be 2..18 or 32");
      return BitWidth::is_valid(bits);
    };
    if (!valid("grad_min_bits", c_.grad_min_bits) || c_.grad_kind != GradientSchedule::kScheduled) return;
    if (!valid("grad_max_bits", c_.grad_max_bits)) return;
    if (c_.grad_min_bits > c_.grad_max_bits)
      fault("grad_min_bits", c_.grad_min_bits, "must not exceed precision.grad_max_bits", {"precision.grad_max_bits"});
    else if (c_.grad_max_bits == BitWidth::kFull && c_.grad_min_bits != BitWidth::kFull)
      fault("grad_max_bits", c_.grad_max_bits,
            "must be 2..8 when gradient bits are scheduled: there are no widths between 8 and 32",
            {"precision.grad_kind", "precision.grad_min_bits"});
  }

  // A shorter cycle would skip entries of a list, and only alias a curve.
  void cycles() {
    const bool falls = c_.kind == ScheduleKind::kCosine && c_.phase == CosinePhase::kFall;
    if (c_.cycles < 1) return fault("cycles", c_.cycles, "must be at least 1");
    if (falls && c_.warmup_steps < 0) return fault("warmup_steps", c_.warmup_steps, "must not be negative");
    if (!units_) return;
    const std::string unit = enum_name(c_.unit);
    Keys also;
    if (c_.unit == ScheduleUnit::kStep) also.emplace_back("train.steps");
    const std::int64_t units = *units_ - (falls ? c_.warmup_steps : 0);
    if (units <= 0 && falls)
      return fault("warmup_steps", c_.warmup_steps,
                   fmt::format("must leave {0}s for the cycles: less than the run's {1} {0}s", unit, *units_), also);
    const std::int64_t shortest = c_.kind == ScheduleKind::kList ? std::max<std::int64_t>(2, std::ssize(c_.list)) : 2;
    const std::int64_t most = units / shortest;
    if (c_.cycles <= most) return;
    if (falls) also.emplace_back("precision.warmup_steps");
    if (c_.kind == ScheduleKind::kList) also.emplace_back("precision.list");
    const std::string mend =
        most > 0 ? fmt::format("at most {} cycles in {} {}s", most, units, unit)
                 : fmt::format("the run's {} {}{} too few for one", units, unit, units == 1 ? " is" : "s are");
    fault("cycles", c_.cycles, fmt::format("each cycle must have at least {} {}s; {}", shortest, unit, mend), also);
  }

  const PrecisionScheduleConfig& c_;
  const std::vector<int>& widths_;
  std::optional<std::int64_t> units_;
  std::vector<ScheduleFault> found_;
};

}  // namespace

std::vector<ScheduleFault> schedule_faults(const PrecisionScheduleConfig& config, const std::vector<int>& widths,
                                           std::optional<std::int64_t> units) {
  return Rules(config, widths, units).run();
}

}  // namespace qat
