#include "dist/watch/limits.h"

#include <algorithm>
#include <cmath>

namespace qat::dist {

double RunClock::tick(double steady) {
  if (!std::isnan(last_)) now_ += std::clamp(steady - last_, 0.0, longest_);
  last_ = steady;
  return now_;
}

void GapMeter::observe(const BoardView& view, double now) {
  if (view.beats == seen_.beats) return;
  // The gap belongs to the section in which it began.
  double& longest = history_.longest_gap[static_cast<std::size_t>(seen_.section)];
  longest = std::max(longest, now - last_change_);
  history_.completed = view.completed;
  seen_ = view;
  last_change_ = now;
}

double limit_of(const LimitRule& rule, const SectionHistory& all, Section section) {
  const auto i = static_cast<std::size_t>(section);
  if (all.completed[i] < rule.learn_after) return rule.ceiling;
  return std::min(rule.ceiling, std::max(rule.floor, rule.factor * all.longest_gap[i]));
}

SectionHistory joined(const SectionHistory& a, const SectionHistory& b) {
  SectionHistory both;
  for (std::size_t i = 0; i < kSections; ++i) {
    both.longest_gap[i] = std::max(a.longest_gap[i], b.longest_gap[i]);
    both.completed[i] = std::min(a.completed[i], b.completed[i]);
  }
  return both;
}

}  // namespace qat::dist
