// Which width a step uses, and its learning rate. JSON sections "precision" and "lr".
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "src/base/named_enum.h"

namespace qat {

// Curves over widths, a list of them, one width; and those that switch between widths or maps
// (src/schedule/switching.h).
enum class ScheduleKind : unsigned char {
  kCosine,
  kTriangular,
  kList,
  kConstant,
  kCyclic,
  kRandom,
  kProgressive,
  kScheduled,
  kLinear,
  kExponential,
  kRex
};
template <>
struct EnumNames<ScheduleKind> {
  static constexpr std::array names{"cosine",      "triangular", "list",   "constant",    "cyclic", "random",
                                    "progressive", "scheduled",  "linear", "exponential", "rex"};
};

inline bool is_switching(ScheduleKind kind) {
  return kind == ScheduleKind::kCyclic || kind == ScheduleKind::kRandom || kind == ScheduleKind::kProgressive ||
         kind == ScheduleKind::kScheduled;
}

// Whether it has the phases below: the profiles of arXiv:2403.02243. Triangular is the full cycle of linear.
inline bool has_phases(ScheduleKind kind) {
  return kind == ScheduleKind::kCosine || kind == ScheduleKind::kLinear || kind == ScheduleKind::kExponential ||
         kind == ScheduleKind::kRex;
}
inline bool is_curve(ScheduleKind kind) { return has_phases(kind) || kind == ScheduleKind::kTriangular; }

// Of a curve's cycle. Rise: min to max, then jump (CPT, arXiv:2101.09868); full: min-max-min; fall: max to min after
// warmup_steps at max; valley: max-min-max, so that a run ends at max (arXiv:2403.02243, "triangular").
enum class CyclePhase : unsigned char { kRise, kFull, kFall, kValley };
template <>
struct EnumNames<CyclePhase> {
  static constexpr std::array names{"rise", "full", "fall", "valley"};
};

// How a curve's way down mirrors its way up g(x): in time, g(1 - x), or upside down, 1 - g(x). Cosine and straight
// lines are their own mirror images.
enum class Reflection : unsigned char { kHorizontal, kVertical };
template <>
struct EnumNames<Reflection> {
  static constexpr std::array names{"horizontal", "vertical"};
};

// What a schedule advances by; an epoch is one pass over the training tokens.
enum class ScheduleUnit : unsigned char { kStep, kEpoch };
template <>
struct EnumNames<ScheduleUnit> {
  static constexpr std::array names{"step", "epoch"};
};

enum class GradientSchedule : unsigned char { kConstant, kScheduled };
template <>
struct EnumNames<GradientSchedule> {
  static constexpr std::array names{"constant", "scheduled"};
};

enum class LrDecay : unsigned char { kCosine, kLinear, kConstant, kPiecewise };
template <>
struct EnumNames<LrDecay> {
  static constexpr std::array names{"cosine", "linear", "constant", "piecewise"};
};

// Learning-rate factors by width: the first two are those of earlier systems (width_factor).
enum class LrScale : unsigned char { kNone, kUp, kDown };
template <>
struct EnumNames<LrScale> {
  static constexpr std::array names{"none", "000-up", "001-down"};
};

// What multiplies the scheduled learning rate at one weight width.
struct WidthFactor {
  int bits = 0;
  double factor = 1.0;
};

// A bound that the precision range test finds (src/schedule/range_test.h): "auto" in files.
inline constexpr int kAutoBits = 0;

// From this step on the learning rate is peak * factor.
struct LrMilestone {
  std::int64_t step = 0;
  double factor = 1.0;
};

struct PrecisionScheduleConfig {
  ScheduleKind kind = ScheduleKind::kCosine;
  CyclePhase phase = CyclePhase::kRise;             // cosine, linear, exponential, rex
  Reflection reflection = Reflection::kHorizontal;  // exponential and rex, where they go down
  ScheduleUnit unit = ScheduleUnit::kStep;
  std::int64_t cycles = 8;            // over the whole run; each at least 2 units long
  int min_bits = 3;                   // lowest scheduled width, or kAutoBits
  int max_bits = 8;                   // highest scheduled width, or kAutoBits
  std::vector<int> list;              // list only: the widths of one cycle, each held for an equal share of it
  double cycle_drop = 0.0;            // list only: bits that a cycle lies below the one before it
  std::int64_t warmup_steps = 0;      // fall only: units held at max_bits first
  std::int64_t switch_interval = 10;  // cyclic, random, scheduled: units that a choice is held
  double switch_probability = 0.3;    // random only: of drawing anew after an interval
  std::vector<std::string> pattern;   // scheduled only: choice:length, in turn
  std::int64_t layer_offset = 0;      // units that each block is ahead of the one before it
  std::int64_t static_after = 0;      // units after which the precision stays at static_at; 0: never
  std::string static_at;              // one of the run's widths or maps
  GradientSchedule grad_kind = GradientSchedule::kConstant;  // constant: grad_min_bits always; scheduled: as the
                                                             // widths, between both bounds
  int grad_min_bits = 8;                                     // bits of backward's gradients; 32: not quantized
  int grad_max_bits = 8;                                     // scheduled only
  // The most that gradients have: what memory and layers must be fit for.
  int most_gradient_bits() const { return grad_kind == GradientSchedule::kScheduled ? grad_max_bits : grad_min_bits; }
};

struct LrScheduleConfig {
  double peak = 6e-4;             // learning rate after warm-up
  double min_ratio = 0.1;         // the last step's rate is peak * min_ratio
  std::int64_t warmup_steps = 0;  // linear from peak / warmup_steps to peak
  LrDecay decay = LrDecay::kCosine;
  std::vector<LrMilestone> milestones;       // piecewise only: by rising step
  LrScale scale_preset = LrScale::kNone;     // factors by weight width
  std::vector<WidthFactor> scale_per_width;  // go over the preset's; each width once at most
};

}  // namespace qat
