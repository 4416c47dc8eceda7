#include "src/memory/memory_model.h"

#include <gtest/gtest.h>

#include "src/memory/pass_memory.h"
#include "src/model/gpt2.h"
#include "tests/src/memory/memory_test_tools.h"
#include "tests/support/byte_units.h"

namespace qat {
namespace {

using testing::bytes_of;
using testing::of_preset;

using test::kGiB;

TEST(MemoryModel, CountsGpt2sParameters) {
  RunConfig config = of_preset("gpt2");
  EXPECT_EQ(count_parameters(config.model, config.lora, config.quant).trained, 124'439'808);
  config.lora.rank = 16;
  EXPECT_EQ(count_parameters(config.model, config.lora, config.quant).trained, 124'439'808 + 12 * 16 * 16 * 768);
  config.model.freeze_base = true;
  EXPECT_EQ(count_parameters(config.model, config.lora, config.quant).trained, 50 * 768 + 12 * 16 * 16 * 768);
  EXPECT_EQ(count_parameters(config.model, config.lora, config.quant).frozen, 124'439'808 - 50 * 768);
  EXPECT_EQ(count_parameters(of_preset("gpt2-xl").model, {.rank = 0}, {}).trained, 1'557'611'200);
}

TEST(MemoryModel, APassHoldsTheWidthsOfBlocksAtSeveralPlacesOfTheSchedule) {
  RunConfig config = of_preset("nano");
  config.lora = {.rank = 4, .slots = Slots::kPerWidth};
  config.quant.widths = {2, 3, 4, 5, 6, 8};
  config.precision = {.kind = ScheduleKind::kCyclic};
  const auto held = [&] {
    return bytes_of(host_memory_needed(config, {.ranks = 2}, /*program=*/0), "parameters of single widths");
  };
  const std::int64_t one = count_parameters(config.model, config.lora, config.quant).of_pass * 4, alone = held();
  config.precision.layer_offset = 1;
  EXPECT_EQ(held(), alone + 2 * one);  // two blocks and a head
}

// Parameters that are trained, and both moments, of each rank its part.
TEST(MemoryModel, ARangeTestKeepsTheStateAside) {
  RunConfig config = of_preset("gpt2");
  const std::string name = "state kept aside for the range test";
  const auto aside = [&](const RankLayout& layout) { return bytes_of(host_memory_needed(config, layout, 0), name); };
  EXPECT_EQ(aside({}), 0);
  EXPECT_EQ(aside({.range_test = true}), 3 * 124'439'808LL * 4);
  config.precision = {.kind = ScheduleKind::kCosine, .min_bits = kAutoBits, .max_bits = 8};
  EXPECT_EQ(aside({}), 3 * 124'439'808LL * 4);
  EXPECT_EQ(aside({.cuda = true, .ranks = 4}), 3 * 124'439'808LL);
  EXPECT_EQ(aside({.training = false}), 0);
  EXPECT_EQ(bytes_of(gpu_memory_needed(config, {.cuda = true}), name), 0);
  config.train.recipe = Recipe::kSpnet;
  EXPECT_EQ(aside({}), 0);
}

TEST(MemoryModel, CountsWhatTheModelDeclares) {
  for (const bool freeze : {false, true}) {
    for (const bool tied : {false, true}) {
      RunConfig config = of_preset("nano");
      config.lora.rank = 4;
      config.model.freeze_base = freeze, config.model.tie_lm_head = tied, config.model.quantize_lm_head = true;
      config.lora.slots = freeze ? Slots::kShared : Slots::kPerWidth;
      if (!freeze) {  // 8 bits have the most
        config.lora.rank_rule = tied ? RankRule::kByWidth : RankRule::kFixed;
        config.lora.per_width = {{.bits = 8, .rank = 9}, {.bits = 3, .rank = 0}, {.bits = 11, .rank = 6}};
      }
      config.model.norm_slots = tied ? Slots::kShared : Slots::kPerWidth;
      config.quant.overrides = {{.layers = "h.0.*", .weight_bits = 11}};
      const Gpt2 model(config.model, config.lora, config.quant, /*pad_to=*/1);
      const ParameterCount count = count_parameters(config.model, config.lora, config.quant);
      EXPECT_EQ(count.trained, model.parameters().trainable_elems());
      EXPECT_EQ(count.frozen, model.parameters().frozen_elems());
      // 8 and 11 bits in one pass, and what all passes use.
      const std::vector<bool> used = model.groups_used(
          PrecisionMap::make(model.linear_names(), scheduled_precision(config.quant, 8), config.quant.overrides));
      std::int64_t in_a_step = 0;
      for (const ParameterInfo& info : model.parameters().infos())
        if (info.trainable && used[static_cast<std::size_t>(info.group_index)]) in_a_step += info.elems;
      EXPECT_EQ(count.in_a_step(), in_a_step);
    }
  }
}

TEST(MemoryModel, CountsTheRangesThatQuantizersTrain) {
  for (const bool groups : {false, true}) {
    RunConfig config = of_preset("nano");
    config.model.quantize_lm_head = true;
    config.quant.widths = {4, 8, 32};
    config.quant.weight = {.method = groups ? QuantizerKind::kGroupwise : QuantizerKind::kLsq,
                           .granularity = groups ? Granularity::kChannel : Granularity::kTensor,
                           .group_size = 16};
    config.quant.activation = {
        .method = QuantizerKind::kLsq, .granularity = Granularity::kTensor, .range = RangeSource::kLearned};
    config.quant.overrides = {{.layers = "h.0.*", .weight_bits = 11}};
    const Gpt2 model(config.model, config.lora, config.quant, /*pad_to=*/1);
    const ParameterCount count = count_parameters(config.model, config.lora, config.quant);
    EXPECT_EQ(count.trained, model.parameters().trainable_elems());
    const std::vector<bool> used = model.groups_used(
        PrecisionMap::make(model.linear_names(), scheduled_precision(config.quant, 8), config.quant.overrides));
    std::int64_t in_a_step = 0;
    for (const ParameterInfo& info : model.parameters().infos())
      if (info.trainable && used[static_cast<std::size_t>(info.group_index)]) in_a_step += info.elems;
    EXPECT_EQ(count.in_a_step(), in_a_step);
    config.quant.overrides.clear();
    config.quant.maps = {"attn=8,mlp=11,act=6,head=4", "stripe8&4"};
    config.quant.weight.by_width = {{8, QuantizerKind::kMinMax}};
    const Gpt2 mapped(config.model, config.lora, config.quant, /*pad_to=*/1);
    EXPECT_EQ(count_parameters(config.model, config.lora, config.quant).trained, mapped.parameters().trainable_elems());
  }
}

TEST(MemoryModel, CountsAHeadThatAnswersQuestions) {
  for (const bool freeze : {false, true}) {
    RunConfig config = of_preset("nano");
    config.model.task = ModelTask::kSpanQa, config.model.freeze_base = freeze;
    const Gpt2 model(config.model, config.lora, config.quant, /*pad_to=*/1);
    const ParameterCount count = count_parameters(config.model, config.lora, config.quant);
    EXPECT_EQ(count.trained, model.parameters().trainable_elems());
    EXPECT_EQ(count.frozen, model.parameters().frozen_elems());
  }
}

TEST(MemoryModel, CountsWhatAStageDeclares) {
  for (const bool tied : {false, true})
    for (const bool questions : {false, true})
      for (const StageRange& stage :
           {StageRange{.chunks = {{0, 1}}, .heads = false},
            StageRange{.chunks = {{1, 2}}, .embeds = false, .heads = false},
            StageRange{.chunks = {{1, 3}}, .embeds = false}, StageRange{.chunks = {{0, 1}, {2, 3}}, .heads = false}}) {
        RunConfig config = of_preset("nano");
        config.model.n_layer = 3;
        config.lora.rank = 4;
        config.model.tie_lm_head = tied, config.model.quantize_lm_head = !questions;
        if (questions) config.model.task = ModelTask::kSpanQa;
        config.model.norm_slots = tied ? Slots::kShared : Slots::kPerWidth;
        config.quant.weight = {.method = QuantizerKind::kLsq, .granularity = Granularity::kTensor};
        config.quant.widths = {4, 8, 32};
        const Gpt2 model(config.model, config.lora, config.quant, /*pad_to=*/1, {}, Recompute::kNone, stage);
        const StagePart part{.chunks = stage.chunks, .embeds = stage.embeds, .heads = stage.heads};
        const ParameterCount count = count_parameters(config.model, config.lora, config.quant, part);
        EXPECT_EQ(count.trained, model.parameters().trainable_elems()) << tied << questions << stage.chunks.size();
        EXPECT_EQ(count.frozen, model.parameters().frozen_elems()) << tied << questions << stage.chunks.size();
      }
}

TEST(MemoryModel, AStageHasItsBlocksItsPassesInFlightAndNoOthersLoss) {
  RunConfig config = of_preset("gpt2");
  config.train.batch_size = 64;
  const auto stage = [&](StagePart part) { return gpu_memory_needed(config, {.cuda = true, .part = std::move(part)}); };
  const MemoryEstimate whole = gpu_memory_needed(config, {.cuda = true});
  const MemoryEstimate middle = stage({.chunks = {{3, 6}}, .embeds = false, .heads = false, .in_flight = 3});
  const std::int64_t stream = 8 * std::int64_t{1024} * 768 * 2;
  const PassMemory pass = pass_memory(training_pass(config, /*cuda=*/true, 8));
  // All blocks alike: a quarter of them, three times, and one at work; the last norm's input is not among them.
  EXPECT_EQ(bytes_of(middle, "activations"), 3 * (pass.kept - stream) / 4 + pass.working);
  EXPECT_EQ(bytes_of(middle, "output projection and loss"), 0);
  EXPECT_EQ(bytes_of(middle, "transfers between stages"), 4 * stream);
  EXPECT_EQ(bytes_of(whole, "transfers between stages"), 0);
  EXPECT_EQ(bytes_of(middle, "parameters"), 3 * (12 * std::int64_t{768} * 768 + 13 * 768) * 4);
  EXPECT_LT(middle.total(), whole.total());
  // Chunks: one of two is in flight as often, and all blocks have parameters.
  const MemoryEstimate chunks = stage({.chunks = {{0, 3}, {6, 9}}, .heads = false, .in_flight = 3});
  EXPECT_EQ(bytes_of(chunks, "activations"), bytes_of(middle, "activations"));
  EXPECT_EQ(bytes_of(chunks, "parameters"), 4 * (6 * (12 * std::int64_t{768} * 768 + 13 * 768) + 51281 * 768));
}

TEST(MemoryModel, AStageKeepsTheStatesThatItsLayersLearnFrom) {
  RunConfig config = of_preset("gpt2");
  config.train.recipe = Recipe::kSp;
  config.distill.features = 0.1, config.distill.feature_pick = FeaturePick::kAll;
  const auto states = [&](StagePart part) {
    return bytes_of(gpu_memory_needed(config, {.cuda = true, .part = std::move(part)}), "teachers' hidden states");
  };
  const StagePart first{.chunks = {{0, 5}}, .heads = false}, last{.chunks = {{5, 12}}, .embeds = false};
  const std::int64_t whole = states({});
  EXPECT_GT(whole, 0);
  EXPECT_EQ(states(first) * 14, whole * 5);  // of 13 states and what the head makes logits of
  EXPECT_EQ(states(last) * 14, whole * 9);
  config.distill.feature_layers = {0, 4};
  EXPECT_EQ(states(first) * 14, whole * 2);
  config.distill.feature_layers = {5};
  EXPECT_EQ(states(first), 0);
}

TEST(MemoryModel, WhatIsThereAllTheTimeFollowsRanksAndMicroBatches) {
  RunConfig config = of_preset("gpt2");
  const std::int64_t all = 4 * std::int64_t{124'439'808};
  config.train.micro_batch_size = 1;
  const auto needed = [&](int ranks) { return gpu_memory_needed(config, {.cuda = true, .ranks = ranks}); };
  EXPECT_EQ(bytes_of(needed(1), "parameters"), all);
  EXPECT_EQ(bytes_of(needed(1), "gradient sums"), 4 * all);  // of 8 micro-batches: 4, 2, 1 and the next
  EXPECT_EQ(bytes_of(needed(1), "optimizer"), 2 * all);
  EXPECT_EQ(bytes_of(needed(4), "gradient sums"), 2 * all);
  EXPECT_EQ(bytes_of(needed(4), "optimizer"), all / 2);
  EXPECT_EQ(bytes_of(needed(4), "parameters"), all);
}

TEST(MemoryModel, GradientsThatTravelAsCodesTakeFeedbackAndMessages) {
  RunConfig config = of_preset("gpt2");
  config.train.micro_batch_size = 1;
  const auto needed = [&](int ranks, const std::string& name) {
    return bytes_of(gpu_memory_needed(config, {.cuda = true, .ranks = ranks}), name);
  };
  const std::int64_t all = 124'439'808, table = std::int64_t{50257} * 768;
  EXPECT_EQ(needed(4, "error feedback") + needed(4, "messages of gradients"), 0);
  config.comm.wire = WireFormatName::kInt8;
  EXPECT_EQ(needed(1, "error feedback") + needed(1, "messages of gradients"), 0);
  EXPECT_EQ(needed(4, "error feedback"), 4 * (all + all / 4));
  EXPECT_NEAR(static_cast<double>(needed(4, "messages of gradients")), 2.0 * table * (1 + 2.0 / 256), 1000);
  config.comm.error_feedback = false;
  EXPECT_EQ(needed(4, "error feedback"), 0);
}

TEST(MemoryModel, WidthsParametersAreSharedOutAndOneIsHeld) {
  RunConfig config = of_preset("gpt2");
  config.lora.rank = 64, config.model.freeze_base = true;
  config.lora.slots = config.model.norm_slots = Slots::kPerWidth;
  const std::int64_t norms = 4 * 50 * 768, adapters = 4 * 12 * 64 * 16 * 768;
  const std::int64_t of_widths = 7 * (norms + adapters) + norms;  // 2..8 bits, and 32 with norms alone
  const auto needed = [&](int ranks, const std::string& name) {
    return bytes_of(gpu_memory_needed(config, {.cuda = true, .ranks = ranks}), name);
  };
  const std::int64_t base = 4 * std::int64_t{124'439'808} - norms;
  EXPECT_EQ(needed(1, "parameters"), base + of_widths);
  EXPECT_EQ(needed(8, "parameters"), base);
  EXPECT_EQ(needed(8, "parameters of single widths"), of_widths / 8 + 2 * (norms + adapters));  // of two passes
  config.comm.overlap = false;
  EXPECT_EQ(needed(8, "parameters of single widths"), of_widths / 8 + norms + adapters);
  config.comm.overlap = true, config.parallel.pipeline = 2;
  EXPECT_EQ(needed(8, "parameters of single widths"), of_widths / 8 + norms + adapters);
  config.parallel.pipeline = 1;
  EXPECT_EQ(bytes_of(host_memory_needed(config, {.ranks = 8}, 0), "parameters of single widths"),
            of_widths / 8 + norms + adapters);
  EXPECT_EQ(needed(8, "optimizer"), 2 * of_widths / 8);
  EXPECT_EQ(needed(8, "gradient sums"), norms + adapters);
}

// Two maps of four have 8 bits, and two 4; a pass at the stripes holds both widths.
TEST(MemoryModel, MapsHoldWhatTheirWidthsHave) {
  RunConfig config = of_preset("gpt2");
  config.lora.rank = 64, config.model.freeze_base = true;
  config.lora.slots = config.model.norm_slots = Slots::kPerWidth;
  config.quant.widths = {2, 4, 8, 32};
  config.train.recipe = Recipe::kSpnet;
  const std::int64_t norms = 4 * 50 * 768, adapters = 4 * 12 * 64 * 16 * 768;
  const auto needed = [&](const std::string& name) {
    return bytes_of(gpu_memory_needed(config, {.cuda = true, .ranks = 8}), name);
  };
  const std::int64_t of_widths = 3 * (norms + adapters) + norms;
  config.comm.overlap = false;
  EXPECT_EQ(needed("parameters of single widths"), of_widths / 8 + norms + adapters);
  EXPECT_EQ(needed("gradient sums"), of_widths);  // of one pass each
  config.quant.maps = {"8", "stripe8&4", "stripe4&2"};
  EXPECT_EQ(needed("parameters of single widths"), of_widths / 8 + 2 * (norms + adapters) + norms);
  EXPECT_EQ(needed("gradient sums"), 2 * of_widths);  // of two passes each, at most: a leaf and its partner
  config.quant.widths = {8, 32};
  apply_gpt2_preset("nano", config.model);
  const Gpt2 model(config.model, config.lora, config.quant, /*pad_to=*/1);
  EXPECT_EQ(count_parameters(config.model, config.lora, config.quant).trained, model.parameters().trainable_elems());
}

TEST(MemoryModel, APassAtAMapIsOfItsLayersWidths) {
  RunConfig config = of_preset("nano");
  config.lora.rank = 4;
  const auto passes = [&](const std::string& map) { return pass_memory(map_pass(config, false, map, true)).kept; };
  EXPECT_EQ(passes("8"), pass_memory(training_pass(config, false, 8)).kept);
  EXPECT_EQ(passes("32"), pass_memory(training_pass(config, false, 32)).kept);
  EXPECT_GT(passes("attn=8,mlp=12"), passes("8"));  // values instead of codes
  EXPECT_GT(passes("attn=8,mlp=8,kv=8"), passes("8"));
}

TEST(MemoryModel, ARunningSumIsOneBufferAndTheLeavesBeingFilled) {
  RunConfig config = of_preset("gpt2");
  const std::int64_t all = 4 * std::int64_t{124'439'808};
  config.train.micro_batch_size = 1, config.train.accumulate = Accumulate::kRunning;
  const auto sums = [&](int ranks) {
    return bytes_of(gpu_memory_needed(config, {.cuda = true, .ranks = ranks}), "gradient sums");
  };
  EXPECT_EQ(sums(1), all + 4 * (50257 * 768 + 2 * (8 << 20)));
  EXPECT_EQ(sums(4), sums(1));
  EXPECT_EQ(sums(8), all);  // one pass a rank
}

// Per token and block, in bf16: 10 d activations, 7 d codes, 4 scales, 4 numbers of the norms and one for each head.
TEST(MemoryModel, AFusedBlockKeepsTwentySevenBytesForEachValueOfATokensWidth) {
  const RunConfig config = of_preset("gpt2");
  const PassShape pass = training_pass(config, /*cuda=*/true, 8);
  ASSERT_TRUE(is_fused(pass));
  const std::int64_t tokens = 8 * 1024, d = 768;
  EXPECT_EQ(pass_memory(pass).kept, 12 * tokens * (27 * d + 4 * 4 + 4 * 4 + 12 * 4) + 2 * tokens * d);
  EXPECT_EQ(pass_memory(pass).loss, tokens * 50304 * 2 + 2 * 2 * tokens * d);
  EXPECT_EQ(pass_memory(training_pass(config, /*cuda=*/true, 32)).kept,
            12 * tokens * (32 * d + 4 * 4 + 12 * 4) + 2 * tokens * d);
}

TEST(MemoryModel, KnowsWhichConfigurationsFuse) {
  RunConfig config = of_preset("gpt2");
  const auto fuses = [&](int bits) { return is_fused(training_pass(config, /*cuda=*/true, bits)); };
  EXPECT_TRUE(fuses(8));
  EXPECT_TRUE(fuses(32));
  EXPECT_FALSE(is_fused(training_pass(config, /*cuda=*/false, 8)));
  config.quant.overrides = {{.layers = "h.3.mlp.c_fc", .weight_bits = 12}};
  EXPECT_FALSE(fuses(8));
  config = of_preset("gpt2");
  config.lora.rank = 12;  // zeros fill it up
  EXPECT_TRUE(fuses(8));
  config.lora.quantize = false;
  EXPECT_FALSE(fuses(8));
  config.lora.input = AdapterInput::kRaw;
  EXPECT_TRUE(fuses(8));
  config = of_preset("gpt2");
  config.quant.weight.by_width = {{8, QuantizerKind::kLog}};
  EXPECT_FALSE(fuses(8));
  EXPECT_TRUE(fuses(7));
  config = of_preset("gpt2");
  config.lora.rank = 16, config.lora.slots = Slots::kPerWidth, config.lora.quantize = false;
  config.lora.per_width = {{.bits = 8, .quantize = true}, {.bits = 5, .rank = 0}};
  EXPECT_TRUE(fuses(8));
  EXPECT_FALSE(fuses(7));
  EXPECT_TRUE(fuses(5));
  config = of_preset("gpt2");
  config.precision.grad_min_bits = 32;
  EXPECT_FALSE(fuses(8));
  config = of_preset("gpt2");
  config.quant.activation.granularity = Granularity::kTensor;
  EXPECT_FALSE(fuses(8));
}

struct GpuFigure {
  const char* preset;
  std::int64_t rank, batch, micro_batches;
  int bits;
  Recompute recompute;
  bool freeze;
  double gib;  // measured: benchmarks/README.md
};

TEST(MemoryModel, IsNearWhatWasMeasuredOnGpus) {
  for (const GpuFigure& figure : std::initializer_list<GpuFigure>{
           {"gpt2", 0, 64, 1, 8, Recompute::kNone, false, 19.3},
           {"gpt2", 16, 64, 1, 8, Recompute::kNone, false, 19.5},
           {"gpt2", 16, 128, 1, 8, Recompute::kNone, false, 36.1},
           {"gpt2", 16, 32, 2, 8, Recompute::kNone, false, 12.1},
           {"gpt2", 16, 16, 4, 8, Recompute::kNone, false, 9.3},
           {"gpt2", 16, 8, 8, 8, Recompute::kNone, false, 7.8},
           {"gpt2", 64, 64, 1, 8, Recompute::kNone, true, 18.7},
           {"gpt2", 0, 64, 1, 32, Recompute::kNone, false, 22.1},
           {"gpt2", 16, 64, 1, 8, Recompute::kBlock, false, 7.4},
           {"gpt2", 16, 64, 1, 8, Recompute::kSelective, false, 17.1},
           {"gpt2-medium", 0, 64, 1, 8, Recompute::kNone, false, 48.7},
           {"gpt2-medium", 16, 96, 1, 8, Recompute::kNone, false, 70.7},
           {"gpt2-xl", 0, 24, 1, 8, Recompute::kNone, false, 75.6},
           {"gpt2-xl", 16, 20, 1, 8, Recompute::kNone, false, 68.1},
       }) {
    RunConfig config = of_preset(figure.preset);
    config.lora.rank = figure.rank;
    config.model.freeze_base = figure.freeze;
    config.train.micro_batch_size = figure.batch;
    config.train.batch_size = figure.batch * figure.micro_batches;
    config.precision.max_bits = figure.bits;
    config.compute.recompute = figure.recompute;
    const double gib = static_cast<double>(gpu_memory_needed(config, {.cuda = true}).total()) / kGiB;
    EXPECT_NEAR(gib / figure.gib, 1.0, 0.1)
        << figure.preset << " rank " << figure.rank << ", " << figure.batch << " x " << figure.micro_batches
        << " sequences, " << enum_name(figure.recompute) << ": " << gib << " GiB, measured " << figure.gib;
  }
}

}  // namespace
}  // namespace qat
