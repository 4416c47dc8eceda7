#include "src/train/loss_monitor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "kernels/common/error.h"

namespace qat {
namespace {

constexpr std::int64_t kVocab = 257;  // a uniform guess costs 5.55 nats

LossMonitor watched(double loss, int steps, std::int64_t window = 10, const std::string& bits = "8") {
  LossMonitor monitor(window);
  for (int i = 0; i < steps; ++i) monitor.add(bits, loss + (i % 2 == 0 ? 0.01 : -0.01));
  return monitor;
}

TEST(LossMonitor, NothingIsASpikeInTheFirstWindow) {
  EXPECT_EQ(LossMonitor(10).deviation("8", 1e9), 0.0);
  EXPECT_EQ(watched(2.0, 9).deviation("8", 1e9), 0.0);
  EXPECT_GT(watched(2.0, 10).deviation("8", 1e9), 1e6);
}

TEST(LossMonitor, CountsStandardDeviationsAboveTheMean) {
  LossMonitor monitor(100);
  for (int i = 0; i < 400; ++i) monitor.add("8", i % 2 == 0 ? 1.0 : 3.0);  // mean 2, deviation 1
  EXPECT_NEAR(monitor.deviation("8", 4.0), 2.0, 0.05);
  EXPECT_EQ(monitor.deviation("8", 1.0), 0.0);
  EXPECT_TRUE(std::isinf(monitor.deviation("8", NAN)));
}

TEST(LossMonitor, EveryWidthHasItsOwnStatistics) {
  LossMonitor monitor = watched(2.0, 20, 10, /*bits=*/"8");
  for (int i = 0; i < 20; ++i) monitor.add("3", 6.0 + (i % 2) * 0.02);
  EXPECT_GT(monitor.deviation("8", 6.0), 100.0);
  EXPECT_LT(monitor.deviation("3", 6.02), 3.0);
  EXPECT_TRUE(monitor.is_plausible("3", 6.5, kVocab));
  EXPECT_FALSE(monitor.is_plausible("8", 6.5, kVocab));
}

TEST(LossMonitor, ANewRunsLossIsPlausibleAndWreckageIsNot) {
  const LossMonitor fresh;
  EXPECT_TRUE(fresh.is_plausible("8", std::log(kVocab), kVocab));
  EXPECT_TRUE(fresh.is_plausible("8", 9.0, kVocab));  // a bad initialisation is no wreckage
  for (const double loss : {40.0, 1e20, std::numeric_limits<double>::infinity(), std::nan("")})
    EXPECT_FALSE(fresh.is_plausible("8", loss, kVocab)) << loss;
}

TEST(LossMonitor, AWidthWithoutStatisticsIsMeasuredByTheOthers) {
  const LossMonitor monitor = watched(7.0, 20);
  EXPECT_TRUE(monitor.is_plausible("2", 20.0, kVocab));
  EXPECT_FALSE(monitor.is_plausible("2", 22.0, kVocab));
}

TEST(LossMonitor, OneWildLossDoesNotMoveTheMark) {
  LossMonitor monitor = watched(2.0, 50);
  monitor.add("8", 1e30);
  monitor.add("8", std::numeric_limits<double>::infinity());
  EXPECT_FALSE(monitor.is_plausible("8", 30.0, kVocab));
  for (int i = 0; i < 200; ++i) monitor.add("8", 4.0);  // but another level is learned in time
  EXPECT_TRUE(monitor.is_plausible("8", 4.5, kVocab));
}

TEST(LossMonitor, TextKeepsEveryBit) {
  LossMonitor monitor(30);
  for (int i = 1; i < 100; ++i) monitor.add(i % 3 == 0 ? "map 4x8,4x4" : std::to_string(4 + i % 3), 1.0 / i);
  EXPECT_EQ(LossMonitor::from_text(monitor.to_text(), 30), monitor);
  EXPECT_EQ(LossMonitor::from_text("", 30), LossMonitor(30));
}

// Statistics of checkpoints in which maps went by their numbers.
TEST(LossMonitor, NumbersOfEarlierProgramsBecomeTheMapsThatTheyStoodFor) {
  const std::string then = R"([{"bits": 8, "count": 20, "mean": 2.0, "variance": 0.01},
                              {"bits": 100, "count": 30, "mean": 3.0, "variance": 0.01},
                              {"bits": 101, "count": 40, "mean": 4.0, "variance": 0.01},
                              {"bits": 102, "count": 50, "mean": 5.0, "variance": 0.01}])";
  const LossMonitor monitor = LossMonitor::from_text(then, 10, {"map 8x4", ""});
  const LossMonitor want = LossMonitor::from_text(
      R"([{"precision": "8", "count": 20, "mean": 2.0, "variance": 0.01},
          {"precision": "map 8x4", "count": 30, "mean": 3.0, "variance": 0.01}])",
      10);
  EXPECT_EQ(monitor, want);
  EXPECT_GT(monitor.deviation("map 8x4", 4.0), 9.0);
  EXPECT_THROW((void)LossMonitor::from_text(R"([{"count": 1}])", 10), Error);
}

}  // namespace
}  // namespace qat
