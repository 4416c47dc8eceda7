// The numbers of a plot's axes, and points no denser than pixels.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "src/report/plot.h"

namespace qat {
namespace {

constexpr int kMostDigits = 4;  // of a tick

}  // namespace

std::vector<std::pair<double, double>> thinned(const std::vector<std::pair<double, double>>& points,
                                               std::size_t buckets) {
  if (points.size() <= 4 * buckets || buckets == 0) return points;
  const double first = points.front().first, width = points.back().first - first;
  if (!(width > 0.0)) return points;
  std::vector<std::pair<double, double>> kept;
  kept.reserve(4 * buckets);
  const auto bucket_of = [&](std::size_t i) {
    const double share = (points[i].first - first) / width * static_cast<double>(buckets);
    return std::min(static_cast<std::size_t>(share), buckets - 1);
  };
  for (std::size_t begin = 0; begin < points.size();) {
    std::size_t end = begin, low = begin, high = begin;
    for (const std::size_t bucket = bucket_of(begin); end < points.size() && bucket_of(end) == bucket; ++end) {
      const double y = points[end].second;
      if (y < points[low].second || !std::isfinite(points[low].second)) low = end;
      if (y > points[high].second || !std::isfinite(points[high].second)) high = end;
    }
    std::vector<std::size_t> chosen = {begin, low, high, end - 1};
    std::sort(chosen.begin(), chosen.end());
    chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
    for (const std::size_t i : chosen) kept.push_back(points[i]);
    begin = end;
  }
  return kept;
}

std::vector<double> round_ticks(double low, double high, int most) {
  if (!(high > low) || most < 2) return {low};
  const double rough = (high - low) / (most - 1);
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10.0 * power;
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= rough * (1.0 - 1e-9)) {
      step = factor * power;
      break;
    }
  std::vector<double> ticks;
  const double slack = 1e-9 * step;
  for (double i = std::ceil((low - slack) / step); i * step <= high + slack; ++i) ticks.push_back(i * step);
  return ticks;
}

std::vector<double> log_ticks(double low, double high, int most) {
  std::vector<double> ticks;
  const int first = static_cast<int>(std::floor(std::log10(low))), last = static_cast<int>(std::ceil(std::log10(high)));
  const auto fill = [&](std::initializer_list<double> factors, int stride) {
    ticks.clear();
    for (int power = first; power <= last; power += stride)
      for (const double factor : factors) {
        const double value = factor * std::pow(10.0, power);
        if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) ticks.push_back(value);
      }
    return ticks.size() <= static_cast<std::size_t>(most);
  };
  if (fill({1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0}, 1) || fill({1.0, 2.0, 5.0}, 1)) return ticks;
  for (int stride = 1; !fill({1.0}, stride); ++stride) {
  }
  return ticks;
}

std::string tick_text(double value) {
  if (value == 0.0) return "0";
  const double size = std::abs(value);
  if (size < 1e-4 || size >= 1e15) return fmt::format("{:.{}g}", value, kMostDigits);
  if (size < 1e4) return fmt::format("{:.{}g}", value, std::max(kMostDigits, 4));
  static constexpr std::pair<double, const char*> kUnits[] = {{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}};
  for (const auto& [unit, name] : kUnits)
    if (size >= unit) return fmt::format("{:.{}g}{}", value / unit, kMostDigits, name);
  return fmt::format("{:g}", value);
}

}  // namespace qat
