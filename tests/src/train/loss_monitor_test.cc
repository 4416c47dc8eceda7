#include "src/train/loss_monitor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace qat {
namespace {

constexpr std::int64_t kVocab = 257;  // a uniform guess costs 5.55 nats

LossMonitor watched(double loss, int steps, std::int64_t window = 10, int bits = 8) {
  LossMonitor monitor(window);
  for (int i = 0; i < steps; ++i) monitor.add(bits, loss + (i % 2 == 0 ? 0.01 : -0.01));
  return monitor;
}

TEST(LossMonitor, NothingIsASpikeInTheFirstWindow) {
  EXPECT_EQ(LossMonitor(10).deviation(8, 1e9), 0.0);
  EXPECT_EQ(watched(2.0, 9).deviation(8, 1e9), 0.0);
  EXPECT_GT(watched(2.0, 10).deviation(8, 1e9), 1e6);
}

TEST(LossMonitor, CountsStandardDeviationsAboveTheMean) {
  LossMonitor monitor(100);
  for (int i = 0; i < 400; ++i) monitor.add(8, i % 2 == 0 ? 1.0 : 3.0);  // mean 2, deviation 1
  EXPECT_NEAR(monitor.deviation(8, 4.0), 2.0, 0.05);
  EXPECT_EQ(monitor.deviation(8, 1.0), 0.0);
  EXPECT_TRUE(std::isinf(monitor.deviation(8, NAN)));
}

TEST(LossMonitor, EveryWidthHasItsOwnStatistics) {
  LossMonitor monitor = watched(2.0, 20, 10, /*bits=*/8);
  for (int i = 0; i < 20; ++i) monitor.add(3, 6.0 + (i % 2) * 0.02);
  EXPECT_GT(monitor.deviation(8, 6.0), 100.0);
  EXPECT_LT(monitor.deviation(3, 6.02), 3.0);
  EXPECT_TRUE(monitor.is_plausible(3, 6.5, kVocab));
  EXPECT_FALSE(monitor.is_plausible(8, 6.5, kVocab));
}

TEST(LossMonitor, ANewRunsLossIsPlausibleAndWreckageIsNot) {
  const LossMonitor fresh;
  EXPECT_TRUE(fresh.is_plausible(8, std::log(kVocab), kVocab));
  EXPECT_TRUE(fresh.is_plausible(8, 9.0, kVocab));  // a bad initialisation is no wreckage
  for (const double loss : {40.0, 1e20, std::numeric_limits<double>::infinity(), std::nan("")})
    EXPECT_FALSE(fresh.is_plausible(8, loss, kVocab)) << loss;
}

TEST(LossMonitor, AWidthWithoutStatisticsIsMeasuredByTheOthers) {
  const LossMonitor monitor = watched(7.0, 20);
  EXPECT_TRUE(monitor.is_plausible(2, 20.0, kVocab));
  EXPECT_FALSE(monitor.is_plausible(2, 22.0, kVocab));
}

TEST(LossMonitor, OneWildLossDoesNotMoveTheMark) {
  LossMonitor monitor = watched(2.0, 50);
  monitor.add(8, 1e30);
  monitor.add(8, std::numeric_limits<double>::infinity());
  EXPECT_FALSE(monitor.is_plausible(8, 30.0, kVocab));
  for (int i = 0; i < 200; ++i) monitor.add(8, 4.0);  // but another level is learned in time
  EXPECT_TRUE(monitor.is_plausible(8, 4.5, kVocab));
}

TEST(LossMonitor, TextKeepsEveryBit) {
  LossMonitor monitor(30);
  for (int i = 1; i < 100; ++i) monitor.add(4 + i % 3, 1.0 / i);
  EXPECT_EQ(LossMonitor::from_text(monitor.to_text(), 30), monitor);
  EXPECT_EQ(LossMonitor::from_text("", 30), LossMonitor(30));
}

}  // namespace
}  // namespace qat
