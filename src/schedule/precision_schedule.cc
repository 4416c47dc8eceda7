#include "src/schedule/precision_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/common/bit_width.h"
#include "kernels/common/error.h"
#include "src/schedule/schedule_rules.h"

namespace qat {
namespace {

// cos(pi num / den) for 0 <= num / den <= 2. Exact where the cosine is rational, so that a width half-way between two
// others rounds the same way with every C library.
double cos_pi(std::int64_t num, std::int64_t den) {
  if (num > den) num = 2 * den - num;
  if (num == 0) return 1.0;
  if (num == den) return -1.0;
  if (2 * num == den) return 0.0;
  if (3 * num == den) return 0.5;
  if (3 * num == 2 * den) return -0.5;
  return std::cos(std::numbers::pi * static_cast<double>(num) / static_cast<double>(den));
}

// Candidates ascend; a tie goes to the smaller.
int nearest_width(const std::vector<int>& candidates, double bits) {
  int best = candidates.front();
  for (const int candidate : candidates) {
    if (std::abs(candidate - bits) < std::abs(best - bits)) best = candidate;
  }
  return best;
}

std::vector<PrecisionChoice> choices_of(const std::vector<int>& widths) {
  std::vector<PrecisionChoice> choices;
  for (const int bits : widths)
    choices.push_back({.name = std::to_string(bits), .weight_bits = bits, .bits = static_cast<double>(bits)});
  return choices;
}

// An entry of the list in one of its cycles. widths: ascending.
int dropped_entry(const PrecisionScheduleConfig& config, const std::vector<int>& widths, int entry,
                  std::int64_t cycle) {
  if (config.cycle_drop == 0.0 || cycle == 0) return entry;
  const double lowest = std::min(2, entry);
  return nearest_width(widths, std::max(lowest, std::trunc(entry - config.cycle_drop * static_cast<double>(cycle))));
}

// Those that a list visits. widths: ascending.
std::vector<int> list_widths(const PrecisionScheduleConfig& config, const std::vector<int>& widths) {
  std::vector<int> visited;
  for (const int entry : config.list)
    for (std::int64_t cycle = 0; cycle < config.cycles; ++cycle) {
      const int bits = dropped_entry(config, widths, entry, cycle);
      if (std::find(visited.begin(), visited.end(), bits) == visited.end()) visited.push_back(bits);
      if (bits == widths.front() || config.cycle_drop == 0.0) break;  // it stays there
    }
  std::sort(visited.begin(), visited.end());
  return visited;
}

// Those that a curve may visit. widths: ascending.
std::vector<int> curve_widths(const PrecisionScheduleConfig& config, std::vector<int> widths) {
  if (config.kind == ScheduleKind::kList) return list_widths(config, widths);
  std::erase_if(widths, [&](int bits) {
    if (config.kind == ScheduleKind::kConstant) return bits != config.max_bits;
    return bits < config.min_bits || bits > config.max_bits;
  });
  return widths;
}

std::vector<int> valid_widths_between(int low, int high) {
  std::vector<int> widths;
  for (int bits = low; bits <= high; ++bits) {
    if (BitWidth::is_valid(bits)) widths.push_back(bits);
  }
  return widths;
}

}  // namespace

PrecisionSchedule::PrecisionSchedule(const PrecisionScheduleConfig& config, std::vector<int> widths,
                                     std::int64_t total_units, const std::vector<PrecisionChoice>& maps,
                                     std::uint64_t seed)
    : config_(config),
      widths_(std::move(widths)),
      total_units_(total_units),
      cycled_units_(config.static_after > 0 ? std::min(config.static_after, total_units) : total_units),
      choices_(maps.empty() ? choices_of(widths_) : maps),
      has_maps_(!maps.empty()) {
  QAT_CHECK(total_units_ >= 0, "a schedule has no negative length");
  QAT_CHECK(!waits_for_range_test(config_), "a schedule is followed once its bounds are known");
  std::vector<std::string> names;
  for (const PrecisionChoice& map : maps) names.push_back(map.name);
  for (const ScheduleFault& fault : schedule_faults(config_, widths_, total_units_, names))
    throw Error(ErrorKind::kConfig, fmt::format("{}{} = {}: {}", fault.key, fault.element, fault.value, fault.rule));
  if (is_switching(config_.kind)) switching_.emplace(config_, choices_, cycled_units_, seed);
  const auto stays = std::find_if(choices_.begin(), choices_.end(),
                                  [&](const PrecisionChoice& one) { return one.name == config_.static_at; });
  static_choice_ = static_cast<std::size_t>(stays - choices_.begin());
  std::sort(widths_.begin(), widths_.end());
  if (is_curve(config_.kind)) widths_ = curve_widths(config_, std::move(widths_));
  if (config_.grad_kind == GradientSchedule::kScheduled)
    grad_bits_ = valid_widths_between(config_.grad_min_bits, config_.grad_max_bits);
}

PrecisionSchedule::Position PrecisionSchedule::position(std::int64_t unit) const {
  if (has_phases(config_.kind) && config_.phase == CyclePhase::kRise) {
    const std::int64_t cycle = cycled_units_ / config_.cycles;
    return {unit % cycle, cycle};
  }
  if (has_phases(config_.kind) && config_.phase == CyclePhase::kFall) {
    const std::int64_t cycle = (cycled_units_ - config_.warmup_steps) / config_.cycles;
    return {(unit - config_.warmup_steps) % cycle, cycle};
  }
  // A cycle is total / cycles units, which need not be whole: unit * cycles / total, less its whole part, is exact.
  return {(unit % cycled_units_) * config_.cycles % cycled_units_, cycled_units_};
}

std::optional<PrecisionSchedule::Phase> PrecisionSchedule::phase(std::int64_t unit) const {
  const bool phases = has_phases(config_.kind), falls = phases && config_.phase == CyclePhase::kFall;
  if (is_switching(config_.kind) || config_.kind == ScheduleKind::kConstant || is_static(unit)) return std::nullopt;
  if (falls && unit < config_.warmup_steps) return std::nullopt;
  const Position x = position(unit);
  const bool whole = falls || (phases && config_.phase == CyclePhase::kRise);  // cycles of whole units
  const std::int64_t cycle = whole ? (unit - (falls ? config_.warmup_steps : 0)) / x.den
                                   : (unit % cycled_units_) * config_.cycles / cycled_units_;
  return Phase{.cycle = cycle,
               .cycles = std::max(config_.cycles, cycle + 1),
               .share = static_cast<double>(x.num) / static_cast<double>(x.den)};
}

// One division of whole numbers where the profile is rational: what lies half-way between two widths is exact.
double PrecisionSchedule::up(Position x, int low, int high) const {
  const std::int64_t range = high - low;
  switch (config_.kind) {
    case ScheduleKind::kCosine:
      return low + 0.5 * static_cast<double>(range) * (1.0 - cos_pi(x.num, x.den));
    case ScheduleKind::kExponential:
      return high -
             static_cast<double>(range) * std::exp(-4.0 * static_cast<double>(x.num) / static_cast<double>(x.den));
    case ScheduleKind::kRex:
      return low + static_cast<double>(range * x.num) / static_cast<double>(10 * x.den - 9 * x.num);
    default:
      return low + static_cast<double>(range * x.num) / static_cast<double>(x.den);
  }
}

double PrecisionSchedule::down(Position x, int low, int high) const {
  if (config_.kind == ScheduleKind::kCosine) return low + 0.5 * (high - low) * (1.0 + cos_pi(x.num, x.den));
  if (config_.reflection == Reflection::kVertical && config_.kind != ScheduleKind::kTriangular &&
      config_.kind != ScheduleKind::kLinear)
    return high - (up(x, low, high) - low);
  return up({x.den - x.num, x.den}, low, high);
}

double PrecisionSchedule::curve(std::int64_t unit, int low, int high) const {
  const CyclePhase phase = config_.kind == ScheduleKind::kTriangular ? CyclePhase::kFull : config_.phase;
  if (phase == CyclePhase::kFall && unit < config_.warmup_steps) return high;
  const Position x = position(unit);
  const bool second_half = 2 * x.num >= x.den;
  const Position half{second_half ? 2 * x.num - x.den : 2 * x.num, x.den};
  switch (phase) {
    case CyclePhase::kRise:
      return std::nearbyint(up(x, low, high));
    case CyclePhase::kFall:
      return std::nearbyint(down(x, low, high));
    case CyclePhase::kValley:
      return std::nearbyint(second_half ? up(half, low, high) : down(half, low, high));
    default:
      // Of a cosine both halves are one curve.
      if (config_.kind == ScheduleKind::kCosine) return low + 0.5 * (high - low) * (1.0 - cos_pi(2 * x.num, x.den));
      return second_half ? down(half, low, high) : up(half, low, high);
  }
}

int PrecisionSchedule::list_entry(std::int64_t unit) const {
  const Position x = position(unit);
  return config_.list[static_cast<std::size_t>(x.num * static_cast<std::int64_t>(config_.list.size()) / x.den)];
}

std::optional<std::size_t> PrecisionSchedule::choice(std::int64_t unit) const {
  if (is_static(unit)) return static_choice_;
  if (switching_) return switching_->at(unit);
  return std::nullopt;
}

int PrecisionSchedule::weight_bits(std::int64_t unit) const {
  return is_static(unit) ? choices_[static_choice_].weight_bits : cycling_bits(unit);
}

int PrecisionSchedule::cycling_bits(std::int64_t unit) const {
  if (switching_) return choices_[switching_->at(unit)].weight_bits;
  if (config_.kind == ScheduleKind::kConstant) return config_.max_bits;
  if (config_.kind == ScheduleKind::kList)
    return dropped_entry(config_, widths_, list_entry(unit), unit % cycled_units_ * config_.cycles / cycled_units_);
  return nearest_width(widths_, curve(unit, config_.min_bits, config_.max_bits));
}

int PrecisionSchedule::gradient_bits(std::int64_t unit) const {
  if (config_.grad_kind == GradientSchedule::kConstant) return config_.grad_min_bits;
  if (config_.kind == ScheduleKind::kConstant || choice(unit)) return config_.grad_max_bits;
  if (config_.kind == ScheduleKind::kList) {
    // As far between the gradient's bounds as the entry is between the list's smallest and largest width.
    const auto [low, high] = std::minmax_element(config_.list.begin(), config_.list.end());
    if (*low == *high) return config_.grad_max_bits;
    const int range = config_.grad_max_bits - config_.grad_min_bits;
    const double bits = config_.grad_min_bits + static_cast<double>(range * (list_entry(unit) - *low)) / (*high - *low);
    return nearest_width(grad_bits_, std::nearbyint(bits));
  }
  return nearest_width(grad_bits_, std::nearbyint(curve(unit, config_.grad_min_bits, config_.grad_max_bits)));
}

ScheduledBits PrecisionSchedule::at(std::int64_t unit) const {
  QAT_CHECK(unit >= 0, "schedules begin at unit 0");
  const auto chosen = choice(unit);
  return {weight_bits(unit), gradient_bits(unit), has_maps_ && chosen ? static_cast<int>(*chosen) : -1};
}

std::vector<int> PrecisionSchedule::block_bits(std::int64_t unit, std::int64_t blocks) const {
  std::vector<int> bits;
  if (config_.layer_offset == 0 || is_static(unit)) return bits;
  for (std::int64_t block = 0; block < blocks; ++block)
    bits.push_back(cycling_bits(unit + block * config_.layer_offset));
  const bool same = std::all_of(bits.begin(), bits.end(), [&](int one) { return one == bits.front(); });
  return same ? std::vector<int>() : bits;
}

std::vector<ScheduleSegment> PrecisionSchedule::segments(std::int64_t begin, std::int64_t end) const {
  std::vector<ScheduleSegment> result;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const ScheduledBits bits = at(unit);
    if (result.empty() || result.back().bits != bits) {
      result.push_back({unit, 1, bits});
    } else {
      ++result.back().count;
    }
  }
  return result;
}

std::vector<int> scheduled_widths(const PrecisionScheduleConfig& config, std::vector<int> widths) {
  std::sort(widths.begin(), widths.end());
  std::vector<int> visited = widths;
  if (waits_for_range_test(config)) {
    // The test trains at all of them.
    std::erase(visited, BitWidth::kFull);
  } else if (!is_switching(config.kind)) {
    visited = curve_widths(config, std::move(visited));
  } else if (config.kind == ScheduleKind::kScheduled) {
    std::erase_if(visited, [&](int bits) {
      return std::none_of(config.pattern.begin(), config.pattern.end(), [&](const std::string& text) {
        const auto entry = parse_pattern_entry(text);
        return entry && entry->choice == std::to_string(bits);
      });
    });
  }
  if (config.static_after == 0) return visited;
  std::erase_if(widths, [&](int bits) {
    return std::to_string(bits) != config.static_at && std::find(visited.begin(), visited.end(), bits) == visited.end();
  });
  return widths;
}

std::string render_schedule(const PrecisionSchedule& schedule, std::int64_t begin, std::int64_t end) {
  std::string text;
  int bits = 0;
  std::int64_t count = 0;
  const auto flush = [&] {
    if (count > 0) text += fmt::format("{}{}x{}", text.empty() ? "" : ",", bits, count);
  };
  for (const ScheduleSegment& segment : schedule.segments(begin, end)) {
    if (segment.bits.weight != bits) {  // segments also part where only gradient bits or maps change
      flush();
      bits = segment.bits.weight;
      count = 0;
    }
    count += segment.count;
  }
  flush();
  return text;
}

}  // namespace qat
