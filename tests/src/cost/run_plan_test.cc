#include "src/cost/run_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "src/cost/known_gpus.h"
#include "src/cost/plan_changes.h"
#include "src/cost/planned_wire.h"
#include "src/cost/stage_plan.h"
#include "src/model/gpt2_config.h"
#include "tests/support/byte_units.h"

namespace qat {
namespace {

using test::kGiB;

using ::testing::AllOf;
using ::testing::HasSubstr;

// configs/cpt.json's kind of run.
RunConfig cpt(const char* preset = "gpt2") {
  RunConfig config;
  apply_gpt2_preset(preset, config.model);
  config.lora.rank = 16;
  config.quant.widths = {4, 5, 6, 7, 8, 32};
  config.precision.min_bits = 4;
  config.data.sequence_length = 1024;
  config.train.batch_size = 128;
  config.train.micro_batch_size = 64;
  config.train.steps = 200;
  return config;
}

PlanMachine on_gpus(const char* gpu, int ranks, int nodes = 1) {
  const KnownGpu* known = find_gpu(gpu);
  PlanMachine machine{.device = known->name, .memory_bytes = known->memory_bytes};
  machine.place = {.cuda = true, .ranks = ranks, .nodes = nodes, .rates = known->rates, .links = known->links};
  machine.place.links.network_bytes = 12.5e9;
  return machine;
}

PlanMachine on_cpus(int ranks, std::int64_t bytes, int cores = 4) {
  PlanMachine machine{.device = "CPU", .memory_bytes = bytes};
  machine.place = {.ranks = ranks, .cores = cores, .rates = cpu_rates(1), .links = {.node_bytes = 2e9}};
  return machine;
}

RunPlan plan_of(const RunConfig& config, const PlanMachine& machine, const PlanData& data = {}) {
  return make_run_plan(config, machine, data);
}

TEST(RunPlan, MemoryIsThatOfTheModelThatARunChecksItselfWith) {
  for (const int ranks : {1, 2}) {
    const RunConfig config = cpt();
    const RunPlan plan = plan_of(config, on_gpus("H100", ranks));
    EXPECT_EQ(plan.worst().memory.total(), gpu_memory_needed(config, {.cuda = true, .ranks = ranks}).total());
    EXPECT_TRUE(plan.fits());
    EXPECT_TRUE(plan.changes.empty());
  }
  const RunConfig config = cpt("nano");
  const RunPlan plan = plan_of(config, on_cpus(2, 8 * kGiB));
  EXPECT_EQ(plan.worst().memory.total(),
            host_memory_needed(config, {.ranks = 2, .ranks_here = 2}, program_bytes(false)).total());
  EXPECT_EQ(plan.available, 4 * kGiB);
}

// benchmarks/README.md: one and two H200s, 128 sequences a step, micro-batches of 64: 553,000 and 1,069,000 tokens/s at
// an earlier commit, whose passes took a tenth longer: what two gain is what can be compared.
TEST(RunPlan, TwoGpusAreAsMuchFasterThanOneAsWasMeasured) {
  const double one = plan_of(cpt(), on_gpus("H200", 1)).tokens_per_s;
  const double two = plan_of(cpt(), on_gpus("H200", 2)).tokens_per_s;
  EXPECT_NEAR(two / one, 1069.0 / 553.0, 0.04);
  EXPECT_GT(plan_of(cpt(), on_gpus("H100", 1)).tokens_per_s, 0.9 * 585e3);
  EXPECT_LT(plan_of(cpt(), on_gpus("H100", 1)).tokens_per_s, 1.1 * 606e3);
}

TEST(RunPlan, AStepIsTheMeanOverTheSchedule) {
  RunConfig config = cpt();
  const auto at = [&](int bits) {
    RunConfig constant = config;
    constant.precision.kind = ScheduleKind::kConstant;
    constant.precision.max_bits = bits;
    return plan_of(constant, on_gpus("H100", 1)).step.passes_s;
  };
  config.precision.kind = ScheduleKind::kList;
  config.precision.cycles = 1;
  config.precision.list = {8, 8, 8, 32};
  config.precision.max_bits = 32;
  const RunPlan plan = plan_of(config, on_gpus("H100", 1));
  EXPECT_NEAR(plan.step.passes_s, 0.75 * at(8) + 0.25 * at(32), 1e-3 * at(8));
  EXPECT_NEAR(plan.step.passes.at("8"), 0.75, 1e-9);
  EXPECT_NEAR(plan.step.passes.at("32"), 0.25, 1e-9);
  EXPECT_EQ(plan.schedule, "8x150,32x50 (width x steps)");
}

TEST(RunPlan, RecipesOfManyWidthsTakeAPassAtEach) {
  RunConfig config = cpt();
  config.train.recipe = Recipe::kSpnet;
  const RunPlan plan = plan_of(config, on_gpus("H100", 1));
  EXPECT_EQ(plan.step.passes.size(), 6U);
  for (const auto& [name, passes] : plan.step.passes) EXPECT_EQ(passes, 1.0) << name;
  EXPECT_GT(plan.step.passes_s, 5.0 * plan_of(cpt(), on_gpus("H100", 1)).step.passes_s);
  EXPECT_THAT(plan.schedule, HasSubstr("one update of all widths 4, 5, 6, 7, 8, 32"));
}

TEST(RunPlan, StagesHaveTheirPartsAndWaitForEachOther) {
  RunConfig config = cpt("gpt2-xl");
  config.lora.rank = 0;
  config.train.micro_batch_size = 8;
  config.parallel.pipeline = 2;
  const RunPlan plan = plan_of(config, on_gpus("H200", 4, 2));
  ASSERT_EQ(plan.stages.size(), 2U);
  EXPECT_EQ(plan.replicas, 2);
  EXPECT_EQ(plan.micro_batches, 8);
  EXPECT_NEAR(plan.stages[0].time_share + plan.stages[1].time_share, 1.0, 1e-12);
  EXPECT_EQ(plan.stages[0].parameters.trained + plan.stages[1].parameters.trained, plan.parameters.trained);
  EXPECT_GT(plan.step.idle_share, 0.05);  // one of nine places of a step is waiting
  EXPECT_LT(plan.step.idle_share, 0.2);
  EXPECT_THAT(to_text(plan, config), AllOf(HasSubstr("2 replicas of 2 stages"), HasSubstr("blocks 0-24, embeddings")));
}

// By the turns that a run takes, which end with each pass of an update.
TEST(RunPlan, StepsOfEveryScheduleAreCarriedOutAsTheRunDoes) {
  RunConfig config = cpt("gpt2-xl");
  config.lora.rank = 0;
  config.train.micro_batch_size = 8;
  config.parallel.pipeline = 2;
  const auto step = [&](dist::PipelineSchedule schedule, int chunks) {
    config.parallel.schedule = schedule, config.parallel.chunks = chunks;
    return plan_of(config, on_gpus("H200", 4, 2)).step;
  };
  const StepTime one = step(dist::PipelineSchedule::kOneFOneB, 1);
  // The last stage has no backward pass to wait for, and gives no gradient away before its last forward pass.
  EXPECT_GT(step(dist::PipelineSchedule::kGpipe, 1).passes_s, 1.2 * one.passes_s);
  EXPECT_LT(step(dist::PipelineSchedule::kInterleaved, 2).passes_s, one.passes_s);
  EXPECT_LT(step(dist::PipelineSchedule::kInterleaved, 2).idle_share, one.idle_share);
  EXPECT_GT(one.hidden_s, 0.0);  // gradients go from node to node while backward runs
  config.comm.overlap = false;
  EXPECT_EQ(step(dist::PipelineSchedule::kOneFOneB, 1).hidden_s, 0.0);
  // Six widths of one update, each with the first micro-batch's way to the last stage: the share that is waited stays.
  config.train.recipe = Recipe::kSpnet;
  const StepTime all = step(dist::PipelineSchedule::kOneFOneB, 1);
  EXPECT_NEAR(all.idle_share, one.idle_share, 0.03);
}

TEST(RunPlan, WidthsSayWhatTheyKeepForThemselves) {
  RunConfig config = cpt();
  config.lora.slots = Slots::kPerWidth;
  const RunPlan alone = plan_of(config, on_gpus("H100", 1)), shared = plan_of(config, on_gpus("H100", 4));
  const auto width = [](const RunPlan& plan, int bits) {
    return *std::find_if(plan.widths.begin(), plan.widths.end(),
                         [&](const PlannedWidth& one) { return one.bits == bits; });
  };
  const std::int64_t adapter = 12 * 16 * 16 * 768 * 4;
  EXPECT_EQ(width(alone, 4).own_bytes, adapter);
  EXPECT_EQ(width(alone, 4).kept_bytes, adapter);
  EXPECT_EQ(width(shared, 4).kept_bytes, adapter / 4);
  EXPECT_EQ(width(shared, 4).moments_bytes, adapter / 2);
  EXPECT_EQ(width(shared, 32).own_bytes, 0);
  EXPECT_GT(width(alone, 4).prepared_bytes, 0);
}

TEST(RunPlan, WhatDoesNotFitComesWithChangesThatDo) {
  RunConfig config = cpt("gpt2-xl");
  config.train.micro_batch_size = 32;
  const PlanMachine machine = on_gpus("H100", 4);
  const RunPlan plan = plan_of(config, machine);
  ASSERT_FALSE(plan.fits());
  ASSERT_EQ(plan.changes.size(), 3U);
  for (const MemoryChange& change : plan.changes) {
    EXPECT_LE(change.bytes, plan.available / 10 * 9) << change.settings;
    EXPECT_TRUE(change.keeps_result) << change.settings;
  }
  const std::string text = to_text(plan, config);
  EXPECT_THAT(text, AllOf(HasSubstr("fits         NO"), HasSubstr(plan.changes[0].settings)));
  const Value json = to_value(plan, config);
  EXPECT_FALSE(json.at("fits").as_bool());
  EXPECT_EQ(json.at("changes").as_array().size(), 3U);
  EXPECT_EQ(json.at("changes").as_array()[0].at("bytes").as_int(), plan.changes[0].bytes);
}

TEST(RunPlan, AModelThatNoSingleGpuHoldsIsCutIntoStages) {
  RunConfig config = cpt("gpt2-xl");
  config.train.batch_size = 64;
  config.train.micro_batch_size = 16;
  const PlanMachine machine = on_gpus("A10", 4);
  const auto changes = plan_changes(config, machine);
  ASSERT_FALSE(changes.empty());
  const auto staged = std::find_if(changes.begin(), changes.end(), [](const MemoryChange& change) {
    return change.settings.starts_with("parallel.pipeline=");
  });
  ASSERT_NE(staged, changes.end());
  EXPECT_EQ(staged->settings, "parallel.pipeline=4 compute.recompute=block");
  config.parallel.pipeline = 4;
  config.compute.recompute = Recompute::kBlock;
  EXPECT_EQ(plan_of(config, machine).worst().memory.total(), staged->bytes);
}

TEST(RunPlan, TokensEpochsAndHours) {
  RunConfig config = cpt();
  config.eval.every = 100;
  const RunPlan plan = plan_of(config, on_gpus("H100", 1), {.train_tokens = 1 << 24, .val_tokens = 1 << 20});
  EXPECT_EQ(plan.tokens, 200.0 * 128 * 1024);
  EXPECT_NEAR(*plan.epochs, 200.0 * 128 * 1024 / (1 << 24), 1e-12);
  EXPECT_NEAR(plan.training_s, 200 * plan.step.total(), 1e-9);
  EXPECT_EQ(plan.evaluations, 2);  // after 100 steps, and the table
  EXPECT_GT(*plan.evaluation_s, 0.0);
  EXPECT_FALSE(plan_of(config, on_gpus("H100", 1)).evaluation_s.has_value());
  // Parameters and two moments of each, in fp32.
  EXPECT_EQ(plan.checkpoint_bytes, 12 * plan.parameters.trained);
}

TEST(RunPlan, RanksThatShareCoresTakeTurns) {
  RunConfig config = cpt("nano");
  config.train.micro_batch_size = 4;
  const double enough = plan_of(config, on_cpus(4, kGiB, /*cores=*/4)).step.passes_s;
  EXPECT_NEAR(plan_of(config, on_cpus(4, kGiB, /*cores=*/2)).step.passes_s, 2.0 * enough, 1e-9);
}

TEST(PlannedWire, IsExactUnlessTheLinksAreSlow) {
  RunConfig config;
  RankPlace place{.cuda = true, .ranks = 2, .rates = gpu_rates("H200")};
  const auto planned = [&](double bytes) {
    place.links = {.node_bytes = bytes, .network_bytes = bytes};
    return planned_wire(config, place, 1);
  };
  EXPECT_EQ(planned(150e9), WireFormatName::kFp32);
  EXPECT_EQ(planned(0.1e9), WireFormatName::kInt8);
  config.comm.error_feedback = false;
  place.nodes = 2;
  EXPECT_EQ(planned(0.1e9), WireFormatName::kBf16);
  EXPECT_EQ(planned(150e9), WireFormatName::kFp32);
  config.comm.wire = WireFormatName::kInt4;
  EXPECT_EQ(planned(150e9), WireFormatName::kInt4);
  config.comm.wire = WireFormatName::kAuto;
  config.parallel.pipeline = 2;
  EXPECT_EQ(planned(0.1e9), WireFormatName::kFp32);
}

}  // namespace
}  // namespace qat
