#include "src/train/pass_speed.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;

TEST(SpeedFigures, AreOfTheTimesOfThePasses) {
  std::vector<double> times(100);
  for (std::size_t i = 0; i < times.size(); ++i) times[i] = static_cast<double>(100 - i);
  const SpeedFigures found = speed_figures(times, {.batch = 2, .length = 101, .warm_up = 3, .beat = {}});
  EXPECT_DOUBLE_EQ(found.mean_ms, 50.5);
  EXPECT_EQ(found.p50_ms, 50.0);
  EXPECT_EQ(found.p95_ms, 95.0);
  EXPECT_EQ(found.p99_ms, 99.0);
  EXPECT_EQ(found.least_ms, 1.0);
  EXPECT_EQ(found.most_ms, 100.0);
  EXPECT_NEAR(found.deviation_ms, std::sqrt((100.0 * 100.0 - 1.0) / 12.0), 1e-9);
  EXPECT_NEAR(found.tokens_per_second(), 4000.0, 1e-9);
  EXPECT_EQ(speed_figures({7.0}, {.beat = {}}).p99_ms, 7.0);
}

TEST(MeasurePasses, TimesThePassesThatItWasAskedFor) {
  TinyModel tiny;
  tiny.build();
  int beats = 0;
  const PrecisionMap map = evaluation_precision(*tiny.model, tiny.quant, 4);
  const SpeedFigures found = measure_passes(
      *tiny.model, map, nullptr, {.batch = 2, .length = 12, .passes = 4, .warm_up = 2, .beat = [&] { ++beats; }});
  EXPECT_EQ(found.passes, 4);
  EXPECT_EQ(beats, 6);
  EXPECT_GT(found.tokens_per_second(), 0.0);
  EXPECT_LE(found.least_ms, found.p50_ms);
  EXPECT_EQ(found.peak_bytes, 0);
}

}  // namespace
}  // namespace qat
