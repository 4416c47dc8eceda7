// How long a rank may go without progress: time as this process lived it, gaps between beats, and what they teach.
// Values only: no threads, no clocks of its own.
#pragma once

#include <array>
#include <cstdint>
#include <limits>

#include "dist/watch/progress_board.h"

namespace qat::dist {

// Time in which this process ran. While it is suspended (a signal, a debugger, a sleeping machine) it could not have
// seen anything happen, so that time must not count against anybody: a tick counts for at most `longest` seconds.
class RunClock {
 public:
  explicit RunClock(double longest) : longest_(longest) {}
  // steady: seconds of a clock that never goes back. Returns now().
  double tick(double steady);
  double now() const noexcept { return now_; }

 private:
  double longest_;
  double now_ = 0.0;
  double last_ = std::numeric_limits<double>::quiet_NaN();  // none yet
};

// How long the beats of one section have been apart at most, and how often the section has been gone through.
struct SectionHistory {
  std::array<double, kSections> longest_gap = {};  // seconds
  std::array<std::uint64_t, kSections> completed = {};
};

// Watches one board.
class GapMeter {
 public:
  // `now`: of a RunClock.
  void observe(const BoardView& view, double now);
  // Seconds since the last beat.
  double stalled(double now) const { return now - last_change_; }
  const SectionHistory& history() const { return history_; }

 private:
  BoardView seen_;
  double last_change_ = 0.0;
  SectionHistory history_;
};

struct LimitRule {
  double ceiling = 600.0;  // seconds; also before anything is known
  double floor = 30.0;     // a learned limit is not less (the ceiling may be)
  double factor = 10.0;    // times the longest gap of the section
  // A section's first passes may be other work than later ones (first use of a kernel, another width): it has been gone
  // through so often before its gaps count as known.
  std::uint64_t learn_after = 3;
};

// Seconds that a rank may spend without a beat in `section`, given what all ranks have shown so far.
double limit_of(const LimitRule& rule, const SectionHistory& all, Section section);

// The longest gaps of both, and the lesser counts.
SectionHistory joined(const SectionHistory& a, const SectionHistory& b);

}  // namespace qat::dist
