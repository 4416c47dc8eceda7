// The plots of a run's report, and of several runs beside each other.
#pragma once

#include <span>
#include <vector>

#include "src/report/plot.h"
#include "src/report/run_history.h"

namespace qat {

// The hue that a precision has in every plot: low widths are red, high ones blue; maps, in the order given, between.
int hue_of(const PrecisionName& precision, std::span<const PrecisionName> all);

// Those that the run has something for.
std::vector<Plot> plots_of(const RunHistory& run);

// The runs in the same axes, a hue each.
std::vector<Plot> plots_of(std::span<const RunHistory> runs);
// Of the i-th of `count` runs.
int hue_of_run(std::size_t i, std::size_t count);

}  // namespace qat
