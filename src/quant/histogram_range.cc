#include "src/quant/histogram_range.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/common/error.h"

namespace qat {
namespace {

float end_of(std::size_t bins, float top) {
  return static_cast<float>(static_cast<double>(top) * static_cast<double>(bins) / static_cast<double>(kHistogramBins));
}

std::int64_t sum_of(std::span<const std::int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

// Of the first `bins` bins with all beyond them in the last, from `levels` magnitudes. Infinite where values would
// become what no code stands for.
double divergence(std::span<const std::int64_t> counts, std::size_t bins, std::size_t levels, std::int64_t all) {
  const std::span<const std::int64_t> within = counts.first(bins);
  const std::int64_t inside = sum_of(within), beyond = all - inside;
  if (inside == 0) return std::numeric_limits<double>::infinity();
  double sum = 0.0;
  for (std::size_t level = 0; level < levels; ++level) {
    const std::size_t begin = level * bins / levels, end = (level + 1) * bins / levels;
    const std::span<const std::int64_t> merged = within.subspan(begin, end - begin);
    const auto held = std::count_if(merged.begin(), merged.end(), [](std::int64_t count) { return count > 0; });
    const double even = held == 0 ? 0.0 : static_cast<double>(sum_of(merged)) / static_cast<double>(held);
    for (std::size_t i = begin; i < end; ++i) {
      const std::int64_t here = within[i] + (i + 1 == bins ? beyond : 0);
      if (here == 0) continue;
      if (within[i] == 0) return std::numeric_limits<double>::infinity();
      const double p = static_cast<double>(here) / static_cast<double>(all);
      sum += p * std::log(p * static_cast<double>(inside) / even);
    }
  }
  return sum;
}

}  // namespace

float percentile_limit(std::span<const std::int64_t> counts, float top, double percent) {
  QAT_CHECK(counts.size() == kHistogramBins && percent > 0.0 && percent <= 100.0, "a histogram and a share of it");
  const double wanted = static_cast<double>(sum_of(counts)) * percent / 100.0;
  std::int64_t seen = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    seen += counts[i];
    if (seen > 0 && static_cast<double>(seen) >= wanted) return end_of(i + 1, top);
  }
  return top;
}

float entropy_limit(std::span<const std::int64_t> counts, float top, BitWidth width) {
  QAT_CHECK(counts.size() == kHistogramBins, "a histogram");
  const auto levels = static_cast<std::size_t>(width.q_max()) + 1;
  const std::int64_t all = sum_of(counts);
  if (levels >= counts.size() || all == 0) return top;
  double least = std::numeric_limits<double>::infinity();
  std::size_t best = counts.size();
  for (std::size_t bins = levels; bins <= counts.size(); ++bins) {
    const double found = divergence(counts, bins, levels, all);
    if (found < least) least = found, best = bins;
  }
  return end_of(best, top);
}

}  // namespace qat
