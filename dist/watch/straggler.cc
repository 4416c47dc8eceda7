#include "dist/watch/straggler.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
}

// Of sorted values, at least two, without the one at `left_out`.
double median_without(const std::vector<double>& sorted, std::size_t left_out) {
  const auto at = [&](std::size_t i) { return sorted[i < left_out ? i : i + 1]; };
  const std::size_t count = sorted.size() - 1;
  return count % 2 == 1 ? at(count / 2) : 0.5 * (at(count / 2 - 1) + at(count / 2));
}

// With a point, whatever the locale.
std::string decimal(double value, int digits) {
  std::array<char, 64> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed, digits);
  return {text.data(), end.ptr};
}

}  // namespace

StragglerWindow::StragglerWindow(int ranks, std::int64_t window)
    : window_(ranks > 1 ? window : 0),
      factors_(static_cast<std::size_t>(ranks)),
      excess_(static_cast<std::size_t>(ranks)) {}

std::optional<Straggler> StragglerWindow::add(std::span<const double> seconds) {
  QAT_CHECK(seconds.size() == factors_.size(), "a work time of every rank");
  if (window_ == 0) return std::nullopt;
  std::vector<double> sorted(seconds.begin(), seconds.end());
  std::sort(sorted.begin(), sorted.end());
  for (std::size_t rank = 0; rank < seconds.size(); ++rank) {
    const auto place = std::lower_bound(sorted.begin(), sorted.end(), seconds[rank]) - sorted.begin();
    const double usual = median_without(sorted, static_cast<std::size_t>(place));
    factors_[rank].push_back(usual > 0.0 ? seconds[rank] / usual : 1.0);
    excess_[rank].push_back(seconds[rank] - usual);
  }
  if (static_cast<std::int64_t>(factors_[0].size()) < window_) return std::nullopt;
  Straggler slowest;
  for (std::size_t rank = 0; rank < factors_.size(); ++rank) {
    const double factor = median(std::move(factors_[rank]));
    const double excess = median(std::move(excess_[rank]));
    factors_[rank].clear();
    excess_[rank].clear();
    if (factor > slowest.factor)
      slowest = {.rank = static_cast<int>(rank), .factor = factor, .steps = window_, .seconds_a_step = excess};
  }
  if (slowest.factor <= kSlow) return std::nullopt;
  return slowest;
}

std::string to_text(const Straggler& straggler, const std::string& host) {
  return "rank " + std::to_string(straggler.rank) + " (" + host + ") is slow: its own work takes " +
         decimal(straggler.factor, 2) + " times as long as the median of the other ranks, " +
         decimal(straggler.seconds_a_step, 3) + " s more a step, over the last " + std::to_string(straggler.steps) +
         " steps";
}

}  // namespace qat::dist
