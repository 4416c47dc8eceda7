// Schedules that switch between a run's precisions as a list of choices: its widths or, where it has them, its maps.
// Pure: a function of the configuration, the seed and the position.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/schedule/schedule_config.h"

namespace qat {

// One of the precisions that a run switches between.
struct PrecisionChoice {
  std::string name;     // "8", or that of a map
  int weight_bits = 0;  // what it counts as
  double bits = 0.0;    // of weights, in the mean: what a progressive schedule orders by
};

// An entry of precision.pattern: "8:20" or "stripe8&4:5", a choice and how many units it is held; "8": as long as
// precision.switch_interval says.
struct PatternEntry {
  std::string choice;
  std::int64_t length = 0;  // 0: not said
};
// Nothing for a length that is no number from 1 to 1e9.
std::optional<PatternEntry> parse_pattern_entry(const std::string& text);

// With n choices and k = floor(unit / switch_interval):
//   cyclic       choice k mod n, in the order of the configuration
//   random       drawn evenly at k = 0, and again with probability switch_probability at every other k
//   progressive  from most bits to fewest, floor(units / n) units each; what is left has the fewest
//   scheduled    the entries of precision.pattern, each as long as it says, over and over
class Switching {
 public:
  // units: of the phase that switches. What schedule_faults() finds must not be there.
  Switching(const PrecisionScheduleConfig& config, const std::vector<PrecisionChoice>& choices, std::int64_t units,
            std::uint64_t seed);

  // Which choice a unit has, by its place in the list.
  std::size_t at(std::int64_t unit) const;

 private:
  std::size_t random_at(std::int64_t interval) const;
  std::size_t scheduled_at(std::int64_t unit) const;

  PrecisionScheduleConfig config_;
  std::size_t choices_;
  std::int64_t units_;
  std::uint64_t seed_;
  struct Held {
    std::size_t choice = 0;
    std::int64_t end = 0;  // units from the pattern's begin
  };
  std::vector<Held> pattern_;         // scheduled
  std::vector<std::size_t> falling_;  // progressive: from most bits to fewest
};

}  // namespace qat
