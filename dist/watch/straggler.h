// Which rank makes the others wait: from every rank's own work time, step by step. Values only.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace qat::dist {

struct Straggler {
  int rank = 0;
  double factor = 0.0;          // its work time over the median of the others'
  std::int64_t steps = 0;       // of the window
  double seconds_a_step = 0.0;  // that the others wait for it
};

// Steps may be of different length (widths change), so ranks are compared step by step: a rank's factor is the median,
// over a window of steps, of its work time over the median of the other ranks' in the same step. A hiccup in a few
// steps changes no median.
class StragglerWindow {
 public:
  static constexpr double kSlow = 1.2;

  // window: steps; 0: never says anything.
  StragglerWindow(int ranks, std::int64_t window);

  // seconds[r]: rank r's own work in this step, without waiting for others. At the end of a window, the slowest rank if
  // it is slower than kSlow allows.
  std::optional<Straggler> add(std::span<const double> seconds);

 private:
  std::int64_t window_;
  std::vector<std::vector<double>> factors_;  // by rank, of this window's steps
  std::vector<std::vector<double>> excess_;   // seconds over the others' median
};

// "rank 3 (node7) is slow: its own work takes 1.31 times as long as the median of the other ranks, ...".
std::string to_text(const Straggler& straggler, const std::string& host);

}  // namespace qat::dist
