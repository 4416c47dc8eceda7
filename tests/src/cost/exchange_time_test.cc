#include "src/cost/exchange_time.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "dist/comm/local_comm.h"
#include "dist/grad/grad_reducer.h"
#include "src/cost/known_gpus.h"
#include "src/cost/step_time.h"
#include "src/model/gpt2_config.h"
#include "src/train/wire_of.h"

namespace qat {
namespace {

const Links kLinks{.node_bytes = 100e9, .network_bytes = 10e9, .node_latency_s = 2e-6, .network_latency_s = 10e-6};

TEST(GradientsSent, AreWhatTheReducerCounts) {
  constexpr std::int64_t kElems = 1 << 20;
  for (const auto wire : {WireFormatName::kFp32, WireFormatName::kBf16, WireFormatName::kInt8, WireFormatName::kInt4})
    for (const auto sum : {WireSumName::kCodeSum, WireSumName::kTwoPhase})
      for (const int places : {0, 1, 2, 4}) {
        const CommConfig comm{.wire = wire, .sum = sum};
        std::int64_t counted = 0;
        dist::run_local_ranks(8, [&](dist::Communicator& ranks) {
          std::optional<dist::NodeGroups> nodes;
          if (places > 0) nodes = dist::make_node_groups(ranks, places);
          const dist::GradReducer reducer(ranks, kElems,
                                          {.wire = wire_of(comm),
                                           .nodes = nodes ? &*nodes : nullptr,
                                           .staging = std::make_shared<dist::WireStaging>(dist::host_flat_memory())});
          if (ranks.rank() == 0) counted = reducer.sent_bytes();
        });
        const RankGroup group{.ranks = 8, .nodes = places > 0 ? 8 / places : 1};
        const Sent sent = gradients_sent(comm, group, kLinks, kElems, /*calls=*/1.0, /*exact=*/0.0);
        EXPECT_EQ(sent.bytes, static_cast<double>(counted))
            << static_cast<int>(wire) << " " << static_cast<int>(sum) << ", nodes of " << places;
      }
}

TEST(GradientsSent, TakeTheirLinksTimeAndALatencyForEveryMessage) {
  const double elems = 1e6;
  const Sent one = gradients_sent({}, {.ranks = 4, .nodes = 1}, kLinks, elems, /*calls=*/3.0, 0.0);
  EXPECT_DOUBLE_EQ(one.seconds_in_node, 4e6 * 3 / 4 / 100e9 + 3 * 3 * 2e-6);
  EXPECT_EQ(one.seconds_between_nodes, 0.0);
  // Of four, two on each node: half of all goes to the neighbour; of what the two have added up, half of a half goes to
  // the other node.
  const Sent two = gradients_sent({}, {.ranks = 4, .nodes = 2}, kLinks, elems, 3.0, 0.0);
  EXPECT_DOUBLE_EQ(two.seconds_in_node, 4e6 / 2 / 100e9 + 3 * 2e-6);
  EXPECT_DOUBLE_EQ(two.seconds_between_nodes, 4e6 / 4 / 10e9 + 3 * 10e-6);
  EXPECT_EQ(gradients_sent({}, {}, kLinks, elems, 3.0, elems).bytes, 0.0);
}

TEST(WeightsSent, ComeBackAsCodesWhereProductsReadCodes) {
  const TrainedElems elems{.linear = 1e6, .rows = 1e3, .tables = 2e5, .vectors = 1e4};
  const RankGroup group{.ranks = 2};
  const double others = 4.0 * 2.1e5 / 2;
  EXPECT_DOUBLE_EQ(weights_sent(group, kLinks, elems, {}).bytes, others + 4e6 / 2);
  EXPECT_DOUBLE_EQ(weights_sent(group, kLinks, elems, {8}).bytes, others + 1e6 / 2 + 4e3);
  EXPECT_DOUBLE_EQ(weights_sent(group, kLinks, elems, {4}).bytes, others + 0.5e6 / 2 + 4e3);
  EXPECT_DOUBLE_EQ(weights_sent(group, kLinks, elems, {8, 4}).bytes, others + 1.5e6 / 2 + 8e3);
  // Through both ranks of two nodes at once: the slower kind of link is what counts.
  const Sent two = weights_sent({.ranks = 4, .nodes = 2}, {.node_bytes = 100e9, .network_bytes = 10e9}, elems, {});
  EXPECT_NEAR(two.seconds(), 4.0 * elems.total() * 3 / 4 / 2 / 10e9, 1e-12);
}

TEST(CodeBits, FollowWhatAPassReads) {
  RunConfig config;
  apply_gpt2_preset("nano", config.model);
  const auto of = [&](int bits) { return training_pass(config, /*cuda=*/true, bits).precision; };
  const PrecisionMap eight = of(8), four = of(4), full = of(32), ten = of(10);
  EXPECT_THAT(code_bits_of(config, true, {&eight}), testing::ElementsAre(8));
  EXPECT_THAT(code_bits_of(config, true, {&eight, &four}), testing::ElementsAre(8, 4));
  EXPECT_TRUE(code_bits_of(config, true, {&eight, &full}).empty());
  EXPECT_TRUE(code_bits_of(config, true, {&ten}).empty());
  EXPECT_TRUE(code_bits_of(config, true, {&eight, &four, &eight, &four}).empty());
  config.comm.weights = WeightsName::kFp32;
  EXPECT_TRUE(code_bits_of(config, true, {&eight}).empty());
}

TEST(GradientTime, BackwardHidesWhatWaitsForTheNetworkAndNothingElse) {
  const TrainedElems elems{.linear = 12e6, .rows = 1e4, .tables = 4e6, .vectors = 1e4};
  const RankGroup nodes{.ranks = 16, .nodes = 2};
  const auto time = [&](const RankGroup& group, double block_s, bool overlapped) {
    return gradient_time({}, group, kLinks, elems,
                         {.head_s = block_s, .blocks_s = {block_s, block_s, block_s}, .embedding_s = block_s},
                         overlapped);
  };
  EXPECT_EQ(time(nodes, 1.0, /*overlapped=*/false).hidden_s, 0.0);
  EXPECT_NEAR(time({.ranks = 8}, 1.0, true).hidden_s, 0.0, 1e-12);  // nothing between nodes
  // A backward pass that takes for ever hides all of the blocks' network time, and none of the tables'.
  const Sent blocks = gradients_sent({}, nodes, kLinks, 12e6, /*calls=*/3.0, 0.0);
  const GradientTime slow = time(nodes, 1.0, true);
  EXPECT_NEAR(slow.hidden_s, blocks.seconds_between_nodes, 1e-12);
  EXPECT_NEAR(slow.added(), slow.alone_s - slow.hidden_s, 1e-15);
  // One that takes no time hides nothing; in between, something.
  EXPECT_NEAR(time(nodes, 0.0, true).hidden_s, 0.0, 1e-12);
  const double some = time(nodes, 0.3 * blocks.seconds_between_nodes, true).hidden_s;
  EXPECT_GT(some, 0.1 * slow.hidden_s);
  EXPECT_LT(some, slow.hidden_s);
}

// What benchmarks/README.md has of one H200 and of several: the model sees the one, and the links of the table of
// GPUs.
struct MeasuredStep {
  const char* preset;
  int batch, micro;  // of a replica; of a pass
  int ranks, stages;
  WeightsName weights;
  bool overlap;
  double one_ms, ms;
  double within;  // relative
};

TEST(ExpectedStep, IsCloseToWhatWasMeasuredOnSeveralGpus) {
  constexpr auto kCodes = WeightsName::kCodes, kFp32 = WeightsName::kFp32;
  const MeasuredStep steps[] = {{"gpt2", 64, 64, 2, 1, kFp32, false, 95.5, 100.6, 0.05},
                                {"gpt2", 64, 64, 2, 1, kCodes, false, 95.5, 98.8, 0.05},
                                {"gpt2", 64, 64, 2, 1, kCodes, true, 95.5, 99.6, 0.05},
                                {"gpt2", 8, 8, 2, 1, kFp32, false, 16.0, 18.4, 0.065},
                                {"gpt2", 8, 8, 2, 1, kCodes, false, 16.0, 18.0, 0.05},
                                {"gpt2", 8, 8, 2, 1, kCodes, true, 16.0, 17.6, 0.05},
                                {"gpt2-medium", 32, 32, 2, 1, kCodes, false, 120.7, 126.9, 0.05},
                                {"gpt2-medium", 32, 32, 2, 1, kCodes, true, 120.7, 126.7, 0.05},
                                {"gpt2", 64, 64, 2, 1, kFp32, false, 96.7, 100.8, 0.05},
                                {"gpt2", 64, 64, 4, 1, kFp32, false, 96.7, 101.9, 0.05},
                                {"gpt2", 128, 8, 2, 2, kCodes, false, 257.0, 141.0, 0.05},
                                {"gpt2-xl", 128, 8, 2, 2, kCodes, false, 1957.0, 1074.0, 0.05}};
  const KnownGpu* gpu = find_gpu("H200");
  for (const MeasuredStep& step : steps) {
    RunConfig config;
    apply_gpt2_preset(step.preset, config.model);
    config.lora.rank = 0;
    config.quant.widths = {4, 5, 6, 7, 8, 32};
    config.precision.min_bits = 4;
    config.precision.cycles = 2;
    config.data.sequence_length = 1024;
    config.train.steps = 24;
    config.train.micro_batch_size = step.micro;
    config.train.batch_size = step.batch * step.ranks / step.stages;
    if (step.stages > 1) config.train.accumulate = Accumulate::kRunning;
    config.parallel.pipeline = step.stages;
    config.comm.weights = step.weights;
    config.comm.overlap = step.overlap;
    RankPlace place{.cuda = true, .ranks = step.ranks, .rates = gpu->rates, .links = gpu->links};
    place.rates = fitted_rates(config, place, step.one_ms * 1e-3);
    const double ms = expected_step(config, place).total() * 1e3;
    EXPECT_NEAR(ms / step.ms, 1.0, step.within)
        << step.preset << ", " << step.batch << " on " << step.ranks << ": " << ms << " beside " << step.ms;
  }
}

TEST(FittedRates, GiveTheStepThatWasMeasured) {
  RunConfig config;
  apply_gpt2_preset("gpt2", config.model);
  config.data.sequence_length = 1024;
  config.train.batch_size = config.train.micro_batch_size = 16;
  RankPlace place{.cuda = true, .rates = find_gpu("H100")->rates};
  place.rates = fitted_rates(config, place, 0.123);
  EXPECT_NEAR(expected_step(config, place).total(), 0.123, 1e-9);
}

}  // namespace
}  // namespace qat
