#include "src/report/loss_figures.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace qat {

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) /
         static_cast<double>(std::max<std::size_t>(1, values.size()));
}

double deviation_of(std::span<const double> values) {
  const double mean = mean_of(values);
  double sum = 0.0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return std::sqrt(sum / static_cast<double>(std::max<std::size_t>(1, values.size())));
}

double fitted_slope(std::span<const double> values) {
  const double middle = 0.5 * (static_cast<double>(values.size()) - 1.0), mean = mean_of(values);
  double products = 0.0, squares = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double x = static_cast<double>(i) - middle;
    products += x * (values[i] - mean), squares += x * x;
  }
  return squares > 0.0 ? products / squares : 0.0;
}

LossFigures loss_figures(std::span<const double> losses) {
  const std::span<const double> last = losses.last(std::min(kLastLosses, losses.size()));
  LossFigures figures{.steps = last.size(), .mean = mean_of(last), .deviation = deviation_of(last)};
  for (std::size_t end = kSettleWindow; end <= losses.size() && !figures.settled_after; ++end)
    if (deviation_of(losses.subspan(end - kSettleWindow, kSettleWindow)) < kSettledDeviation)
      figures.settled_after = static_cast<std::int64_t>(end);
  return figures;
}

}  // namespace qat
