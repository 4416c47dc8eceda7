// What a run's losses say of how far, and how steadily, it has come.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace qat {

constexpr std::size_t kLastLosses = 100, kSettleWindow = 50;
constexpr double kSettledDeviation = 0.01;  // nats

struct LossFigures {
  std::size_t steps = 0;               // that the next two are of: the last kLastLosses, or fewer
  double mean = 0.0, deviation = 0.0;  // nats; deviation: of a step from the mean
  // The losses after which kSettleWindow of them deviate by less than kSettledDeviation; nothing: they never do.
  std::optional<std::int64_t> settled_after;
};

// Of finite losses, step by step.
LossFigures loss_figures(std::span<const double> losses);

// The slope of the line through values at 0, 1, 2, ... whose squared errors are least; 0 of fewer than two.
double fitted_slope(std::span<const double> values);

// 0 of none.
double mean_of(std::span<const double> values);
// Of a value from the mean: the root of the mean square.
double deviation_of(std::span<const double> values);

}  // namespace qat
