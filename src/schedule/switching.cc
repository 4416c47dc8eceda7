#include "src/schedule/switching.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <numeric>
#include <system_error>

#include "kernels/common/error.h"
#include "src/base/rng.h"

namespace qat {
namespace {

constexpr std::int64_t kLongest = 1'000'000'000;  // units

// Of an interval: whether to draw, and what.
struct Draws {
  float whether = 0.0F;
  float which = 0.0F;
};

Draws draws_of(std::uint64_t seed, std::int64_t interval) {
  std::array<float, 2> draws{};
  fill_uniform(rng_key(seed, RngPurpose::kSwitching, static_cast<std::uint64_t>(interval)), 0.0F, 1.0F, draws);
  return {draws[0], draws[1]};
}

}  // namespace

std::optional<PatternEntry> parse_pattern_entry(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) return PatternEntry{.choice = text};
  PatternEntry entry{.choice = text.substr(0, colon)};
  const char* const end = text.data() + text.size();
  const auto [stop, status] = std::from_chars(text.data() + colon + 1, end, entry.length);
  if (status != std::errc{} || stop != end || entry.length < 1 || entry.length > kLongest) return std::nullopt;
  return entry;
}

Switching::Switching(const PrecisionScheduleConfig& config, const std::vector<PrecisionChoice>& choices,
                     std::int64_t units, std::uint64_t seed)
    : config_(config), choices_(choices.size()), units_(units), seed_(seed), falling_(choices.size()) {
  QAT_CHECK(!choices.empty() && is_switching(config.kind), "a schedule that switches has choices");
  std::iota(falling_.begin(), falling_.end(), 0);
  std::stable_sort(falling_.begin(), falling_.end(),
                   [&](std::size_t a, std::size_t b) { return choices[a].bits > choices[b].bits; });
  if (config_.kind != ScheduleKind::kScheduled) return;
  for (const std::string& text : config_.pattern) {
    const PatternEntry entry = parse_pattern_entry(text).value_or(PatternEntry{});
    const auto found = std::find_if(choices.begin(), choices.end(),
                                    [&](const PrecisionChoice& choice) { return choice.name == entry.choice; });
    QAT_CHECK(found != choices.end(), "an entry of a pattern is one of the choices");
    const std::int64_t begin = pattern_.empty() ? 0 : pattern_.back().end;
    pattern_.push_back({.choice = static_cast<std::size_t>(found - choices.begin()),
                        .end = begin + (entry.length > 0 ? entry.length : config_.switch_interval)});
  }
}

std::size_t Switching::at(std::int64_t unit) const {
  const std::int64_t interval = unit / config_.switch_interval;
  const auto count = static_cast<std::int64_t>(choices_);
  switch (config_.kind) {
    case ScheduleKind::kRandom:
      return random_at(interval);
    case ScheduleKind::kProgressive: {
      const std::int64_t each = units_ / count;
      return falling_[static_cast<std::size_t>(each == 0 ? count - 1 : std::min(unit / each, count - 1))];
    }
    case ScheduleKind::kScheduled:
      return scheduled_at(unit);
    default:
      return static_cast<std::size_t>(interval % count);
  }
}

// The newest draw that counts; the first one does.
std::size_t Switching::random_at(std::int64_t interval) const {
  Draws draws = draws_of(seed_, interval);
  while (interval > 0 && draws.whether >= static_cast<float>(config_.switch_probability))
    draws = draws_of(seed_, --interval);
  const auto choice = static_cast<std::size_t>(static_cast<double>(draws.which) * static_cast<double>(choices_));
  return std::min(choice, choices_ - 1);
}

std::size_t Switching::scheduled_at(std::int64_t unit) const {
  const std::int64_t place = unit % pattern_.back().end;
  return std::find_if(pattern_.begin(), pattern_.end(), [&](const Held& held) { return place < held.end; })->choice;
}

}  // namespace qat
