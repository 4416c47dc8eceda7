#include "src/quant/histogram_range.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <vector>

#include "src/quant/range_observer.h"

namespace qat {
namespace {

std::vector<std::int64_t> histogram_of(const at::Tensor& x, float top) {
  const Quantizer q("layer", "activation", {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated});
  RangeObserver seen(q, BitWidth(8), x.size(-1), at::kCPU);
  seen.observe(x);
  seen.start_histogram(top);
  seen.observe(x);
  const at::Tensor counts = seen.histogram();
  return {counts.data_ptr<std::int64_t>(), counts.data_ptr<std::int64_t>() + counts.numel()};
}

TEST(HistogramRange, CountsMagnitudesInEvenBinsTheLastOneHasTheTop) {
  const auto counts = histogram_of(at::tensor({0.0F, -0.9F, 1.0F, 2047.0F, -2048.0F, 3000.0F}).unsqueeze(0), 2048.0F);
  ASSERT_EQ(counts.size(), 2048U);
  EXPECT_EQ(counts[0], 2);
  EXPECT_EQ(counts[1], 1);
  EXPECT_EQ(counts[2047], 3);
}

TEST(HistogramRange, APercentileReachesThatShareOfTheValues) {
  std::vector<std::int64_t> counts(kHistogramBins, 0);
  counts[9] = 998, counts[99] = 1, counts[2047] = 1;
  EXPECT_EQ(percentile_limit(counts, 2048.0F, 99.0), 10.0F);
  EXPECT_EQ(percentile_limit(counts, 2048.0F, 99.8), 10.0F);
  EXPECT_EQ(percentile_limit(counts, 2048.0F, 99.9), 100.0F);
  EXPECT_EQ(percentile_limit(counts, 2048.0F, 100.0), 2048.0F);
  EXPECT_EQ(percentile_limit(counts, 2048.0F, 1e-9), 10.0F);  // of the first bin that has a value
}

// Against the percentile of the sorted values, to a bin.
TEST(HistogramRange, PercentilesAreThoseOfTheValues) {
  torch::manual_seed(1);
  const at::Tensor x = at::randn({50, 200});
  const float top = x.abs().max().item<float>();
  const auto counts = histogram_of(x, top);
  const at::Tensor sorted = std::get<0>(at::sort(x.abs().view(-1)));
  for (const double percent : {50.0, 99.0, 99.9}) {
    const auto exact = sorted[static_cast<std::int64_t>(std::ceil(percent * 100.0)) - 1].item<double>();
    const double found = percentile_limit(counts, top, percent);
    EXPECT_GE(found, exact);
    EXPECT_LE(found, exact + 1.001 * top / 2048.0);
  }
}

double divergence_by_hand(const std::vector<std::int64_t>& counts, std::size_t bins, std::size_t levels) {
  std::vector<double> p(counts.begin(), counts.begin() + static_cast<std::ptrdiff_t>(bins)), q(bins, 0.0);
  double all = 0.0, inside = 0.0;
  for (const std::int64_t count : counts) all += static_cast<double>(count);
  for (const double one : p) inside += one;
  for (std::size_t level = 0; level < levels; ++level) {
    double sum = 0.0, held = 0.0;
    for (std::size_t i = level * bins / levels; i < (level + 1) * bins / levels; ++i)
      sum += p[i], held += p[i] > 0 ? 1.0 : 0.0;
    for (std::size_t i = level * bins / levels; i < (level + 1) * bins / levels; ++i)
      if (p[i] > 0) q[i] = sum / held / inside;
  }
  p.back() += all - inside;
  double total = 0.0;
  for (std::size_t i = 0; i < bins; ++i) {
    if (p[i] == 0.0) continue;
    if (q[i] == 0.0) return INFINITY;
    total += p[i] / all * std::log(p[i] / all / q[i]);
  }
  return total;
}

TEST(HistogramRange, EntropyEndsWhereTheDivergenceIsLeast) {
  torch::manual_seed(3);
  const at::Tensor x = at::randn({40, 250});
  x[0][0] = 40.0F;
  const auto counts = histogram_of(x, 40.0F);
  for (const int bits : {2, 4, 6, 8}) {
    const auto levels = static_cast<std::size_t>(1) << (bits - 1);
    std::size_t best = levels;
    for (std::size_t bins = levels; bins <= counts.size(); ++bins)
      if (divergence_by_hand(counts, bins, levels) < divergence_by_hand(counts, best, levels)) best = bins;
    EXPECT_NEAR(entropy_limit(counts, 40.0F, BitWidth(bits)), 40.0 * static_cast<double>(best) / 2048.0, 1e-4) << bits;
    EXPECT_LT(entropy_limit(counts, 40.0F, BitWidth(bits)), 8.0F) << bits;  // the outlier is given up
  }
  EXPECT_EQ(entropy_limit(counts, 40.0F, BitWidth(12)), 40.0F);  // as many codes as bins
}

TEST(HistogramRange, WhatCannotBeNarrowedReachesTheTop) {
  std::vector<std::int64_t> counts(kHistogramBins, 0);
  EXPECT_EQ(entropy_limit(counts, 5.0F, BitWidth(4)), 5.0F);
  counts[2047] = 10;  // all have the same magnitude
  EXPECT_EQ(entropy_limit(counts, 5.0F, BitWidth(4)), 5.0F);
  EXPECT_EQ(percentile_limit(counts, 5.0F, 50.0), 5.0F);
}

}  // namespace
}  // namespace qat
