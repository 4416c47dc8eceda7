#include "src/quant/histogram_range.h"

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

// Sums over the first i bins, i from 0 on.
struct Sums {
  std::vector<std::int64_t> count, held;  // of values; of bins that have any
  std::vector<double> entropy;            // of n ln n, n a bin's count
};

Sums sums_over(std::span<const std::int64_t> counts) {
  Sums sums{.count = {0}, .held = {0}, .entropy = {0.0}};
  for (const std::int64_t here : counts) {
    const auto n = static_cast<double>(here);
    sums.count.push_back(sums.count.back() + here);
    sums.held.push_back(sums.held.back() + (here > 0 ? 1 : 0));
    sums.entropy.push_back(sums.entropy.back() + (here > 0 ? n * std::log(n) : 0.0));
  }
  return sums;
}

// Of the first `bins` bins with all beyond them in the last, from `levels` magnitudes, times the number of all values:
// the sum over bins of n ln(n / all * inside / even), `even` being what a bin of its magnitude has on average. Infinite
// where values would become what no code stands for.
double divergence(const Sums& sums, std::size_t bins, std::size_t levels) {
  const std::int64_t all = sums.count.back(), inside = sums.count[bins], beyond = all - inside;
  const std::int64_t last = inside - sums.count[bins - 1];
  if (inside == 0 || (beyond > 0 && last == 0)) return std::numeric_limits<double>::infinity();
  const double share = std::log(static_cast<double>(inside) / static_cast<double>(all));
  double sum = static_cast<double>(inside) * share, even = 0.0;
  for (std::size_t level = 0; level < levels; ++level) {
    const std::size_t begin = level * bins / levels, end = (level + 1) * bins / levels;
    const std::int64_t held = sums.held[end] - sums.held[begin];
    if (held == 0) continue;
    const auto count = static_cast<double>(sums.count[end] - sums.count[begin]);
    even = std::log(count / static_cast<double>(held));
    sum += sums.entropy[end] - sums.entropy[begin] - count * even;
  }
  if (beyond == 0) return sum;
  const auto before = static_cast<double>(last), with = static_cast<double>(last + beyond);
  return sum + with * (std::log(with) - even + share) - before * (std::log(before) - even + share);
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
  const Sums sums = sums_over(counts);
  if (levels >= counts.size() || sums.count.back() == 0) return top;
  double least = std::numeric_limits<double>::infinity();
  std::size_t best = counts.size();
  for (std::size_t bins = levels; bins <= counts.size(); ++bins) {
    const double found = divergence(sums, bins, levels);
    if (found < least) least = found, best = bins;
  }
  return end_of(best, top);
}

}  // namespace qat
