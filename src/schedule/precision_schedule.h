// Which width each step (or epoch) of a run uses. Pure: a function of the configuration and the position.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/schedule/schedule_config.h"
#include "src/schedule/switching.h"

namespace qat {

struct ScheduledBits {
  int weight = 32;    // one of the run's widths, or what its map counts as
  int gradient = 32;  // of what backward multiplies; 32: not quantized
  int map = -1;       // which of the run's maps; -1: all layers have the width
  friend bool operator==(const ScheduledBits&, const ScheduledBits&) = default;
};

// Units `first` .. `first + count - 1` have the same bits.
struct ScheduleSegment {
  std::int64_t first = 0;
  std::int64_t count = 0;
  ScheduledBits bits;
  friend bool operator==(const ScheduleSegment&, const ScheduleSegment&) = default;
};

// With x the position in a cycle, 0 <= x < 1, D = max - min, up(x) = min + D g(x), and down(x) its mirror image, max to
// min: min + D g(1 - x), or min + D (1 - g(x)) with the vertical reflection:
//   rise     rne(up(x))                                   cycles of int(total / cycles) units (CPT, arXiv:2101.09868)
//   full     up(2 x), then down(2 x - 1)                  cycles of total / cycles units, which need not be whole
//   fall     rne(down(x))                                 after warmup_steps units at max; cycles of the int of the
//   rest valley   rne(down(2 x)), then rne(up(2 x - 1))        cycles as for full
// for the profiles g of arXiv:2403.02243, as its authors' programs have them:
//   cosine (1 - cos(pi x)) / 2     linear x     exponential 1 - exp(-4 x)     rex 0.1 x / (1 - 0.9 x)
// Other kinds:
//   triangular    linear, full
//   list          entry floor(x * entries) of the list; in cycle c = 0, 1, ... max(2, int(entry - c * cycle_drop))
//   constant      max
//   cyclic, random, progressive, scheduled      see switching.h: of the run's widths or maps
// (rne rounds half to even), and then the nearest of the run's widths that lie between min and max, ties to the
// smaller. What is left of the units after the last whole cycle begins another one. Gradient bits, where scheduled,
// follow the same curve between their own bounds, rounded to a valid width. With static_after, all of this goes on in
// the units before it, whose number takes the place of the total; from there on the precision is static_at.
class PrecisionSchedule {
 public:
  // `widths` are those the run trains (quant.widths), `maps` what it has in their place, if any (quant.maps);
  // `total_units` the run's steps or epochs, as config.unit says; `seed` the run's.
  // Throws Error(kConfig), naming the key, for a schedule that cannot be followed (schedule_rules.h).
  PrecisionSchedule(const PrecisionScheduleConfig& config, std::vector<int> widths, std::int64_t total_units,
                    const std::vector<PrecisionChoice>& maps = {}, std::uint64_t seed = 1);

  // unit >= 0; units past the total continue the last cycle.
  ScheduledBits at(std::int64_t unit) const;

  // With layer_offset: the widths of `blocks` blocks in a unit, block b being layer_offset * b units ahead in the part
  // of the run that is not static. Empty where all have at(unit).weight. Gradient bits are at(unit)'s for all.
  std::vector<int> block_bits(std::int64_t unit, std::int64_t blocks) const;

  // at(), for units [begin, end), neighbours of equal bits joined.
  std::vector<ScheduleSegment> segments(std::int64_t begin, std::int64_t end) const;

  // Which of how many cycles a unit lies in, from 0, and how far into it (0 to 1); nothing where there are no cycles.
  struct Phase {
    std::int64_t cycle = 0, cycles = 0;
    double share = 0.0;
  };
  std::optional<Phase> phase(std::int64_t unit) const;

  std::int64_t total_units() const noexcept { return total_units_; }

 private:
  // x as an exact fraction num / den.
  struct Position {
    std::int64_t num = 0;
    std::int64_t den = 1;
  };

  Position position(std::int64_t unit) const;
  bool is_static(std::int64_t unit) const { return config_.static_after > 0 && unit >= config_.static_after; }
  // What it has after static_after, or where it switches; nothing where it follows a curve.
  std::optional<std::size_t> choice(std::int64_t unit) const;
  // As if there were no static phase.
  int cycling_bits(std::int64_t unit) const;
  double curve(std::int64_t unit, int low, int high) const;
  double up(Position x, int low, int high) const;
  double down(Position x, int low, int high) const;
  int list_entry(std::int64_t unit) const;
  int weight_bits(std::int64_t unit) const;
  int gradient_bits(std::int64_t unit) const;

  PrecisionScheduleConfig config_;
  std::vector<int> widths_;     // candidates, ascending: what lies between the bounds
  std::vector<int> grad_bits_;  // candidates of scheduled gradients, ascending
  std::int64_t total_units_ = 0;
  std::int64_t cycled_units_ = 0;         // those before static_after
  std::vector<PrecisionChoice> choices_;  // maps or, if there are none, widths as configured
  bool has_maps_ = false;
  std::optional<Switching> switching_;
  std::size_t static_choice_ = 0;
};

// The widths among `widths` (quant.widths) that a schedule, or the range test before it, may visit, ascending.
std::vector<int> scheduled_widths(const PrecisionScheduleConfig& config, std::vector<int> widths);

// The weight widths of units [begin, end) for people, e.g. "3x4,4x2,5x2": width x units.
std::string render_schedule(const PrecisionSchedule& schedule, std::int64_t begin, std::int64_t end);

}  // namespace qat
