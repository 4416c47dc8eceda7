// What a precision schedule must fulfil to be followed: the one set of rules, which the configuration reports and
// PrecisionSchedule insists on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/schedule/schedule_config.h"

namespace qat {

struct ScheduleFault {
  std::string key;                // "precision.min_bits"
  std::string rule;               // "must be one of quant.widths"
  std::vector<std::string> also;  // the other keys that the rule reads
  std::string element;            // of a list: "[1]"; what `value` is then of
  std::string value;
};

// Whether the schedule follows from a bound that is not known yet.
bool waits_for_range_test(const PrecisionScheduleConfig& config);

// With the lowest and the highest of the widths below 32 in place of such bounds: the most that they can come to.
PrecisionScheduleConfig widest_bounds(PrecisionScheduleConfig config, const std::vector<int>& widths);

// Bounds that are not known yet are judged as the widest. widths: quant.widths. units: the run's steps or epochs, as
// config.unit says; none: not known yet, and cycles' lengths are left to whoever knows. maps: the names of quant.maps,
// in order.
std::vector<ScheduleFault> schedule_faults(const PrecisionScheduleConfig& config, const std::vector<int>& widths,
                                           std::optional<std::int64_t> units,
                                           const std::vector<std::string>& maps = {});

}  // namespace qat
