#include "src/cost/stage_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "src/model/gpt2_config.h"

namespace qat {
namespace {

using ::testing::ElementsAre;

RunConfig piped(int stages, const char* preset = "gpt2") {
  RunConfig config;
  apply_gpt2_preset(preset, config.model);
  config.lora.rank = 0;
  config.data.sequence_length = 1024;
  config.train.micro_batch_size = 8;
  config.precision.kind = ScheduleKind::kConstant;
  config.precision.max_bits = 8;
  config.parallel.pipeline = stages;
  return config;
}

ModelTimes on_h200(const RunConfig& config) { return run_times(config, /*cuda=*/true, gpu_rates("NVIDIA H200")); }

TEST(StagePlan, TheLastStageHasFewerBlocksWhereTheHeadIsDear) {
  const RunConfig small = piped(2);
  const ModelTimes times = on_h200(small);
  EXPECT_THAT(run_cut(small, times), ElementsAre(0, 7));
  const std::vector<double> shares = stage_shares(small, times, {0, 7});
  EXPECT_NEAR(shares[0] + shares[1], 1.0, 1e-12);
  EXPECT_LT(std::max(shares[0], shares[1]), 0.53);
  EXPECT_GT(stage_shares(small, times, {0, 6})[1], 0.55);  // by count
  const RunConfig large = piped(2, "gpt2-xl");
  EXPECT_THAT(run_cut(large, on_h200(large)), ElementsAre(0, 25));
}

TEST(StagePlan, ACutByHandIsTaken) {
  RunConfig config = piped(3);
  config.parallel.cut = {0, 2, 11};
  EXPECT_THAT(run_cut(config, on_h200(config)), ElementsAre(0, 2, 11));
  EXPECT_THAT(run_cut(piped(1), on_h200(piped(1))), ElementsAre(0));
}

TEST(StagePlan, TimesAreTheMeanOverTheWidthsOfTheRecipe) {
  RunConfig config = piped(2);
  const double at_8 = on_h200(config).blocks[0].total();
  config.precision.max_bits = 32;
  const double at_32 = on_h200(config).blocks[0].total();
  config.train.recipe = Recipe::kSpnet;
  config.quant.widths = {8, 32};
  EXPECT_NEAR(on_h200(config).blocks[0].total(), (at_8 + at_32) / 2, 1e-12);
  config.quant.maps = {"32", "32", "8"};
  EXPECT_NEAR(on_h200(config).blocks[0].total(), (at_8 + 2 * at_32) / 3, 1e-12);
}

TEST(StagePlan, StagesHoldTheirChunksAndAsManyPassesAsTheScheduleNeeds) {
  RunConfig config = piped(4);
  const dist::StageCut cut{0, 3, 6, 10};
  const StagePart first = stage_part(config, cut, 0, /*micro_batches=*/16);
  EXPECT_EQ(first.chunks[0].first, 0);
  EXPECT_EQ(first.chunks[0].last, 3);
  EXPECT_TRUE(first.embeds && !first.heads);
  EXPECT_EQ(first.in_flight, 4);
  const StagePart last = stage_part(config, cut, 3, 16);
  EXPECT_EQ(last.chunks[0].last, 12);
  EXPECT_TRUE(!last.embeds && last.heads);
  EXPECT_EQ(last.in_flight, 1);
  config.parallel.schedule = dist::PipelineSchedule::kGpipe;
  EXPECT_EQ(stage_part(config, cut, 3, 16).in_flight, 16);

  config = piped(2);
  config.parallel.schedule = dist::PipelineSchedule::kInterleaved;
  config.parallel.chunks = 2;
  const StagePart chunks = stage_part(config, cut, 1, 16);
  EXPECT_THAT(chunks.blocks(12), ElementsAre(3, 4, 5, 10, 11));
  EXPECT_EQ(chunks.in_flight, 3);
}

TEST(StagePlan, AStepOnPaperTakesTheSlowestStagesTimeAndTheBubble) {
  const RunConfig config = piped(2, "gpt2-xl");
  const ModelTimes times = on_h200(config);
  const dist::StageCut cut = run_cut(config, times);
  const std::vector<double> stages = dist::stage_costs(layer_costs(times), cut, 2);
  double end_us = 0.0;
  for (const dist::TimelineSpan& span : dist::simulate(planned_pipeline(config, times, cut, /*micro_batches=*/16)))
    end_us = std::max(end_us, span.end_us);
  const double slowest = std::max(stages[0], stages[1]), other = std::min(stages[0], stages[1]);
  EXPECT_GE(end_us * 1e-6, 16 * slowest);
  EXPECT_LE(end_us * 1e-6, 16 * slowest + other + 1e-9);
}

}  // namespace
}  // namespace qat
