#include "src/train/pass_speed.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/common/trace_range.h"
#include "src/train/layer_times.h"
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

// Every part of a pass by its name, in order, and together no more than the pass.
TEST(MeasurePasses, TimesTheLayersIfAskedTo) {
  TinyModel tiny;
  tiny.build();
  const PrecisionMap map = evaluation_precision(*tiny.model, tiny.quant, 4);
  const SpeedFigures found = measure_passes(
      *tiny.model, map, nullptr, {.batch = 2, .length = 12, .passes = 1, .warm_up = 1, .layer_passes = 3, .beat = {}});
  std::vector<std::string> names, want = {"embedding"};
  for (const LayerSpeed& one : found.layers) {
    names.push_back(one.layer);
    EXPECT_GT(one.mean_ms, 0.0) << one.layer;
    EXPECT_GE(one.deviation_ms, 0.0) << one.layer;
  }
  for (std::int64_t layer = 0; layer < tiny.config.n_layer; ++layer)
    for (const char* part :
         {"ln_1", "attn.c_attn", "attention", "attn.c_proj", "ln_2", "mlp.c_fc", "gelu", "mlp.c_proj"})
      want.push_back("h." + std::to_string(layer) + "." + part);
  want.insert(want.end(), {"ln_f", "lm_head"});
  EXPECT_EQ(names, want);
}

// What is inside of another counts there, and what comes twice is added up; a pass that lacks it counts as 0.
TEST(LayerTimes, AreOfTheInnermostRanges) {
  LayerTimes times(at::kCPU);
  const auto pass = [&](int inner) {
    {
      const TraceListening listening(times);
      const TraceRange outer("outer");
      for (int i = 0; i < inner; ++i) {
        const TraceRange range("inner");
      }
    }
    times.take_pass();
  };
  pass(2);
  pass(1);
  { const TraceRange unheard("unheard"); }
  const std::vector<LayerSpeed> figures = times.figures();
  ASSERT_EQ(figures.size(), 1U);
  EXPECT_EQ(figures[0].layer, "outer.inner");
  pass(0);
  EXPECT_EQ(times.figures().back().layer, "outer");
}

}  // namespace
}  // namespace qat
