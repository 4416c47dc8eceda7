#include "src/schedule/schedule_rules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "kernels/common/bit_width.h"
#include "src/base/nearest.h"
#include "src/schedule/switching.h"

namespace qat {
namespace {

class Rules {
 public:
  Rules(const PrecisionScheduleConfig& config, const std::vector<int>& widths, std::optional<std::int64_t> units,
        const std::vector<std::string>& maps)
      : c_(config), widths_(widths), units_(units), maps_(maps), choices_(maps) {
    if (maps.empty())
      for (const int bits : widths) choices_.push_back(std::to_string(bits));
  }

  std::vector<ScheduleFault> run() {
    gradients();
    two_phases();
    if (c_.layer_offset < 0) fault("layer_offset", c_.layer_offset, "must not be negative");
    if (c_.layer_offset > 0 && !maps_.empty())
      fault("layer_offset", c_.layer_offset, "must be 0 with quant.maps, which say the width of every layer themselves",
            {"quant.maps"});
    if (is_switching(c_.kind)) {
      switching();
      return std::move(found_);
    }
    if (!maps_.empty()) {
      fault("kind", enum_name(c_.kind),
            "must be cyclic, random, progressive or scheduled with quant.maps: the others are curves over widths",
            {"quant.maps"});
      return std::move(found_);
    }
    widths();
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

  // Names a choice, or nothing with a fault.
  void chosen(const char* key, const std::string& name, const std::string& value, const std::string& element) {
    if (std::find(choices_.begin(), choices_.end(), name) != choices_.end()) return;
    const std::string source = maps_.empty() ? "quant.widths" : "quant.maps";
    const auto close = nearest(name, choices_);
    fault(key, value,
          fmt::format("must be one of {}{}", source, close ? fmt::format("; did you mean \"{}\"?", *close) : ""),
          {source}, element);
  }

  void two_phases() {
    if (c_.static_after < 0) return fault("static_after", c_.static_after, "must not be negative");
    if (c_.static_after == 0) return;
    if (units_ && c_.static_after >= *units_) {
      Keys also;
      if (c_.unit == ScheduleUnit::kStep) also.emplace_back("train.steps");
      fault("static_after", c_.static_after,
            fmt::format("must be below the run's {} {}s, or nothing is left to train at precision.static_at", *units_,
                        enum_name(c_.unit)),
            std::move(also));
    }
    chosen("static_at", c_.static_at, fmt::format("\"{}\"", c_.static_at), "");
  }

  void switching() {
    if (c_.switch_interval < 1) fault("switch_interval", c_.switch_interval, "must be at least 1");
    if (c_.grad_kind == GradientSchedule::kScheduled)
      fault("grad_kind", enum_name(c_.grad_kind),
            "must be \"constant\" for a schedule that switches: it has no curve for gradients to follow",
            {"precision.kind"});
    if (c_.kind == ScheduleKind::kRandom && !(c_.switch_probability > 0.0 && c_.switch_probability <= 1.0))
      fault("switch_probability", c_.switch_probability, "must be above 0, and at most 1");
    if (c_.kind == ScheduleKind::kProgressive && units_) {
      const std::int64_t units = c_.static_after > 0 ? std::min(c_.static_after, *units_) : *units_;
      if (units < std::ssize(choices_))
        fault("kind", enum_name(c_.kind),
              fmt::format("needs at least {} {}s, one for each of {}, and has {}", choices_.size(), enum_name(c_.unit),
                          maps_.empty() ? "quant.widths" : "quant.maps", units),
              {maps_.empty() ? "quant.widths" : "quant.maps"});
    }
    if (c_.kind != ScheduleKind::kScheduled) return;
    if (c_.pattern.empty())
      fault("pattern", "[]", "must not be empty for precision.kind \"scheduled\"", {"precision.kind"});
    for (std::size_t i = 0; i < c_.pattern.size(); ++i) {
      const std::string value = fmt::format("\"{}\"", c_.pattern[i]), element = fmt::format("[{}]", i);
      if (const auto entry = parse_pattern_entry(c_.pattern[i]))
        chosen("pattern", entry->choice, value, element);
      else
        fault("pattern", value, "must end in a length from 1 to 1000000000, as in 8:20", {}, element);
    }
  }

  void widths() {
    if (c_.kind == ScheduleKind::kList) {
      if (c_.list.empty()) fault("list", "[]", "must not be empty for precision.kind \"list\"", {"precision.kind"});
      for (std::size_t i = 0; i < c_.list.size(); ++i)
        if (!trained(c_.list[i]))
          fault("list", c_.list[i], "must be one of quant.widths", {"quant.widths"}, fmt::format("[{}]", i));
      if (!(c_.cycle_drop >= 0.0)) fault("cycle_drop", c_.cycle_drop, "must not be negative");
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
      if (!BitWidth::is_usual(bits)) fault(key, bits, "must be 2..18 or 32");
      return BitWidth::is_usual(bits);
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
    const bool falls = has_phases(c_.kind) && c_.phase == CyclePhase::kFall;
    if (c_.cycles < 1) return fault("cycles", c_.cycles, "must be at least 1");
    if (falls && c_.warmup_steps < 0) return fault("warmup_steps", c_.warmup_steps, "must not be negative");
    if (!units_) return;
    const std::string unit = enum_name(c_.unit);
    Keys also;
    if (c_.unit == ScheduleUnit::kStep) also.emplace_back("train.steps");
    // Those of the first phase, if there are two.
    const std::int64_t cycled = c_.static_after > 0 ? std::min(c_.static_after, *units_) : *units_;
    if (c_.static_after > 0) also.emplace_back("precision.static_after");
    const std::int64_t units = cycled - (falls ? c_.warmup_steps : 0);
    if (units <= 0 && falls)
      return fault("warmup_steps", c_.warmup_steps,
                   fmt::format("must leave {0}s for the cycles: less than the run's {1} {0}s", unit, cycled), also);
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
  const std::vector<std::string>& maps_;
  std::vector<std::string> choices_;
  std::vector<ScheduleFault> found_;
};

}  // namespace

bool waits_for_range_test(const PrecisionScheduleConfig& config) {
  if (config.kind == ScheduleKind::kConstant) return config.max_bits == kAutoBits;
  return is_curve(config.kind) && (config.min_bits == kAutoBits || config.max_bits == kAutoBits);
}

PrecisionScheduleConfig widest_bounds(PrecisionScheduleConfig config, const std::vector<int>& widths) {
  std::vector<int> quantized = widths;
  std::erase(quantized, BitWidth::kFull);
  if (quantized.empty()) return config;
  const auto [low, high] = std::minmax_element(quantized.begin(), quantized.end());
  if (config.min_bits == kAutoBits) config.min_bits = *low;
  if (config.max_bits == kAutoBits) config.max_bits = *high;
  return config;
}

std::vector<ScheduleFault> schedule_faults(const PrecisionScheduleConfig& config, const std::vector<int>& widths,
                                           std::optional<std::int64_t> units, const std::vector<std::string>& maps) {
  const PrecisionScheduleConfig widest = widest_bounds(config, widths);
  if (waits_for_range_test(widest))
    return {{config.min_bits == kAutoBits ? "precision.min_bits" : "precision.max_bits",
             "must not be \"auto\" without a width below 32 in quant.widths, which the range test could try",
             {"quant.widths"},
             "",
             "\"auto\""}};
  return Rules(widest, widths, units, maps).run();
}

}  // namespace qat
