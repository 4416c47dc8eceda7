#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "dist/pipeline/simulator.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

using enum PipelineSchedule;
using enum ActionKind;
using ::testing::AllOf;
using ::testing::HasSubstr;

struct Shape {
  PipelineSchedule schedule;
  int stages;
  std::int64_t micro_batches;
  int chunks;

  std::string text() const {
    return "schedule " + std::to_string(static_cast<int>(schedule)) + ", p " + std::to_string(stages) + ", m " +
           std::to_string(micro_batches) + ", v " + std::to_string(chunks);
  }
  std::vector<PipelineAction> list(int stage) const {
    return stage_actions(schedule, stage, stages, micro_batches, chunks);
  }
  // The formulas hold for these; a short last group of interleaving has bounds.
  bool whole_groups() const { return chunks == 1 || micro_batches % stages == 0; }
};

// A stage's chunks take `forward` and `backward` together.
SimulatedPipeline pipeline_of(const Shape& shape, double forward = 3.0, double backward = 5.0) {
  SimulatedPipeline pipeline;
  const ChunkTime time{forward / shape.chunks, backward / shape.chunks};
  for (int s = 0; s < shape.stages; ++s) {
    pipeline.stages.push_back(shape.list(s));
    pipeline.times.emplace_back(static_cast<std::size_t>(shape.chunks), time);
  }
  return pipeline;
}

double length_of(const Timeline& timeline) {
  double end = 0.0;
  for (const TimelineSpan& span : timeline) end = std::max(end, span.end_us);
  return end;
}

void for_every_shape(const std::function<void(const Shape&)>& check) {
  for (int stages = 1; stages <= 8; ++stages)
    for (std::int64_t micro_batches = 1; micro_batches <= 32; ++micro_batches) {
      check({kGpipe, stages, micro_batches, 1});
      check({kOneFOneB, stages, micro_batches, 1});
      for (int chunks = 1; chunks <= 4; ++chunks) check({kInterleaved, stages, micro_batches, chunks});
      if (::testing::Test::HasFailure()) return;  // one shape's messages are enough
    }
}

TEST(PipelineSimulator, EveryMicroBatchPassesEveryChunkOnceForwardAndOnceBackwardAndEverySendHasItsReceive) {
  for_every_shape([](const Shape& shape) {
    SCOPED_TRACE(shape.text());
    const Timeline timeline = simulate(pipeline_of(shape));  // throws where a pass lacks its input or is done twice
    std::map<ActionKind, std::int64_t> count;
    for (const TimelineSpan& span : timeline) ++count[span.action.kind];
    const std::int64_t pieces = std::int64_t{shape.stages} * shape.chunks;
    const std::int64_t transfers = shape.stages == 1 ? 0 : (pieces - 1) * shape.micro_batches;
    EXPECT_EQ(count[kForward], pieces * shape.micro_batches);
    EXPECT_EQ(count[kBackward], pieces * shape.micro_batches);
    for (const ActionKind kind : {kSendForward, kReceiveForward, kSendBackward, kReceiveBackward})
      EXPECT_EQ(count[kind], transfers) << to_text(kind);
  });
}

TEST(PipelineSimulator, EveryChunksBackwardPassesAreInOrderOfMicroBatches) {
  for_every_shape([](const Shape& shape) {
    for (int stage = 0; stage < shape.stages; ++stage) {
      std::map<std::pair<ActionKind, int>, std::int64_t> next;
      for (const PipelineAction& action : shape.list(stage))
        EXPECT_EQ(action.micro_batch, (next[{action.kind, action.chunk}]++)) << shape.text();
    }
  });
}

TEST(PipelineSimulator, NoScheduleDeadlocksInSendsThatWaitForTheirReceiveWithOneReceivePosted) {
  for_every_shape([](const Shape& shape) {
    SimulatedPipeline pipeline = pipeline_of(shape);
    pipeline.transfer_us = 1.0;
    pipeline.transfers = TransferMode::kBlockingSends;
    pipeline.receives_ahead = 1;
    EXPECT_NO_THROW(simulate(pipeline)) << shape.text();
    for (int stage = 0; stage < shape.stages; ++stage)
      pipeline.stages[static_cast<std::size_t>(stage)] =
          forward_actions(shape.schedule, stage, shape.stages, shape.micro_batches, shape.chunks);
    EXPECT_NO_THROW(simulate(pipeline)) << shape.text();
  });
}

TEST(PipelineSimulator, TheTransfersBetweenTwoPassesMayBeOneExchangeWhereAStageHasOneChunk) {
  const auto exchanging = [](const Shape& shape) {
    SimulatedPipeline pipeline = pipeline_of(shape);
    pipeline.transfer_us = 1.0;
    pipeline.transfers = TransferMode::kExchanges;
    return pipeline;
  };
  for_every_shape([&](const Shape& shape) {
    if (shape.chunks > 1) return;
    EXPECT_NO_THROW(simulate(exchanging(shape))) << shape.text();
  });
  // With several, neighbours wait in exchanges whose messages are for later ones.
  try {
    simulate(exchanging({kInterleaved, 2, 4, 2}));
    FAIL() << "no deadlock: the header of schedule.h may promise more";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("the stages wait for ever"));
  }
}

SimulatedPipeline in_turns(const Shape& shape, double forward, double backward, bool trains = true) {
  SimulatedPipeline pipeline;
  const ChunkTime time{forward / shape.chunks, backward / shape.chunks};
  for (int s = 0; s < shape.stages; ++s) {
    pipeline.add_turns(stage_turns(shape.schedule, s, shape.stages, shape.micro_batches, shape.chunks, trains));
    pipeline.times.emplace_back(static_cast<std::size_t>(shape.chunks), time);
  }
  return pipeline;
}

// With several chunks too: an exchange ends with its turn, though no pass stands between it and the next.
TEST(PipelineSimulator, TheExchangesOfTurnsFitTogetherWhateverTheShape) {
  for_every_shape([](const Shape& shape) {
    if (shape.stages == 1) return;
    for (const bool trains : {true, false}) {
      SimulatedPipeline pipeline = in_turns(shape, 3.0, 5.0, trains);
      const double end = length_of(simulate(pipeline));
      const std::int64_t whole = (shape.micro_batches + shape.stages - 1) / shape.stages * shape.stages;
      if (trains && shape.chunks > 1) {
        EXPECT_LE(end, (static_cast<double>(whole) + (shape.stages - 1.0) / shape.chunks) * 8.0 * (1.0 + 1e-9))
            << shape.text();
      }
      pipeline.transfer_us = 0.25;
      EXPECT_GT(length_of(simulate(pipeline)), end) << shape.text();
    }
  });
}

TEST(PipelineSimulator, ATickTakesAsLongAsItsSlowestStage) {
  SimulatedPipeline pipeline = in_turns({kInterleaved, 2, 2, 2}, /*forward=*/2.0, /*backward=*/4.0);
  EXPECT_EQ(length_of(simulate(pipeline)), 15.0);
  // Stage 1 takes twice as long: F0 0-1 | F1 1-2, F0 1-3 | F0' 3-4, F1 3-5 | F1' 5-6, F0' B0' 5-11 | ...
  for (ChunkTime& time : pipeline.times[1]) time = {2.0, 4.0};
  Timeline timeline = simulate(pipeline);
  std::erase_if(timeline, [](const TimelineSpan& span) { return is_transfer(span.action.kind) || span.rank != 0; });
  EXPECT_THAT(timeline, ::testing::ElementsAreArray(Timeline{
                            {0, {kForward, 0, 0}, 0.0, 1.0},
                            {0, {kForward, 0, 1}, 1.0, 2.0},
                            {0, {kForward, 1, 0}, 3.0, 4.0},
                            {0, {kForward, 1, 1}, 5.0, 6.0},
                            {0, {kBackward, 1, 0}, 11.0, 13.0},
                            {0, {kBackward, 1, 1}, 17.0, 19.0},
                            {0, {kBackward, 0, 0}, 21.0, 23.0},
                            {0, {kBackward, 0, 1}, 25.0, 27.0},
                        }));
}

TEST(PipelineSimulator, AnExchangeTakesItsStagesTime) {
  // Forward 1, backward 2 us; a transfer of 0.25 us before stage 1's passes, and before stage 0's backward passes.
  SimulatedPipeline pipeline = pipeline_of({kOneFOneB, 2, 2, 1}, /*forward=*/1.0, /*backward=*/2.0);
  pipeline.transfer_us = 0.25;
  pipeline.transfers = TransferMode::kExchanges;
  Timeline timeline = simulate(pipeline);
  std::erase_if(timeline, [](const TimelineSpan& span) { return is_transfer(span.action.kind); });
  EXPECT_THAT(timeline, ::testing::UnorderedElementsAreArray(Timeline{
                            {0, {kForward, 0, 0}, 0.0, 1.0},
                            {0, {kForward, 0, 1}, 1.25, 2.25},
                            {1, {kForward, 0, 0}, 1.25, 2.25},
                            {1, {kBackward, 0, 0}, 2.25, 4.25},
                            {0, {kBackward, 0, 0}, 4.5, 6.5},
                            {1, {kForward, 0, 1}, 4.5, 5.5},
                            {1, {kBackward, 0, 1}, 5.5, 7.5},
                            {0, {kBackward, 0, 1}, 7.75, 9.75},
                        }));
}

TEST(PipelineSimulator, StepsTakeTheFormulasTimeWhateverBackwardCosts) {
  for_every_shape([](const Shape& shape) {
    SCOPED_TRACE(shape.text());
    for (const auto& [f, b] : {std::pair{3.0, 3.0}, {3.0, 6.0}, {3.0, 2.0}}) {
      const Timeline timeline = simulate(pipeline_of(shape, f, b));
      const auto m = static_cast<double>(shape.micro_batches);
      const double formula = (m + (shape.stages - 1.0) / shape.chunks) * (f + b);
      const double bubble = bubble_fraction(shape.schedule, shape.stages, shape.micro_batches, shape.chunks);
      const std::vector<RankUse> uses = rank_use(timeline);
      ASSERT_EQ(std::ssize(uses), shape.stages);
      if (shape.whole_groups()) {
        EXPECT_NEAR(length_of(timeline), formula, 1e-9 * formula) << f << ' ' << b;
        for (const RankUse& use : uses) EXPECT_NEAR(use.idle_share, bubble, 1e-9);
      } else {
        const std::int64_t padded = (shape.micro_batches + shape.stages - 1) / shape.stages * shape.stages;
        const double bound = (static_cast<double>(padded) + (shape.stages - 1.0) / shape.chunks) * (f + b);
        EXPECT_LE(length_of(timeline), bound * (1.0 + 1e-9));
        EXPECT_GE(length_of(timeline), formula * (1.0 - 1e-9));
      }
    }
  });
}

TEST(PipelineSimulator, StagesKeepTheFormulasCountOfMicroBatches) {
  for_every_shape([](const Shape& shape) {
    const std::int64_t m = shape.micro_batches;
    for (int s = 0; s < shape.stages; ++s) {
      const std::int64_t behind = shape.stages - s - 1;
      std::int64_t formula = m;
      if (shape.schedule != kGpipe) formula = std::min(behind + 1, m);
      if (shape.chunks > 1)
        formula = std::min(2 * behind + std::int64_t{shape.chunks - 1} * shape.stages + 1, m * shape.chunks);
      const std::int64_t peak = peak_in_flight(shape.list(s));
      if (shape.whole_groups()) {
        EXPECT_EQ(peak, formula) << shape.text() << ", stage " << s;
      } else {
        EXPECT_LE(peak, formula) << shape.text() << ", stage " << s;
      }
    }
  });
}

TEST(PipelineSimulator, TransfersBesidePassesCostTheirTimeOnceAWayIfThereIsRoomForTwo) {
  // The first micro-batch goes there and the last one's gradient comes back: 2 (p - 1) transfers beside the passes.
  SimulatedPipeline pipeline = pipeline_of({kGpipe, 4, 8, 1});
  pipeline.transfer_us = 0.5;
  pipeline.receives_ahead = 2;
  const double beside = (8 + 3) * 8.0 + 6 * 0.5;
  EXPECT_NEAR(length_of(simulate(pipeline)), beside, 1e-9);
  pipeline.receives_ahead = 1;  // a stage then waits for each transfer, since none moves while it uses the last
  EXPECT_NEAR(length_of(simulate(pipeline)), beside + 2 * 7 * 0.5, 1e-9);
  pipeline.receives_ahead = 2;
  pipeline.transfers = TransferMode::kBlockingSends;
  EXPECT_GT(length_of(simulate(pipeline)), beside + 1.0);
}

TEST(PipelineSimulator, TheSlowestStageSetsThePace) {
  SimulatedPipeline pipeline = pipeline_of({kOneFOneB, 2, 16, 1});
  pipeline.times[1][0] = {6.0, 10.0};
  EXPECT_NEAR(length_of(simulate(pipeline)), 16 * 16.0 + 8.0, 1e-9);
}

TEST(PipelineSimulator, TimesOfASmallPipelineByHand) {
  SimulatedPipeline pipeline = pipeline_of({kOneFOneB, 2, 2, 1}, /*forward=*/1.0, /*backward=*/2.0);
  pipeline.transfer_us = 0.25;
  Timeline timeline = simulate(pipeline);
  std::erase_if(timeline, [](const TimelineSpan& span) { return is_receive(span.action.kind); });
  EXPECT_THAT(timeline, ::testing::UnorderedElementsAreArray(Timeline{
                            {0, {kForward, 0, 0}, 0.0, 1.0},
                            {0, {kSendForward, 0, 0}, 1.0, 1.25},
                            {0, {kForward, 0, 1}, 1.0, 2.0},
                            {0, {kSendForward, 0, 1}, 2.25, 2.5},  // the first is used at 2.25: then there is room
                            {1, {kForward, 0, 0}, 1.25, 2.25},
                            {1, {kBackward, 0, 0}, 2.25, 4.25},
                            {1, {kSendBackward, 0, 0}, 4.25, 4.5},
                            {1, {kForward, 0, 1}, 4.25, 5.25},
                            {0, {kBackward, 0, 0}, 4.5, 6.5},
                            {1, {kBackward, 0, 1}, 5.25, 7.25},
                            {1, {kSendBackward, 0, 1}, 7.25, 7.5},
                            {0, {kBackward, 0, 1}, 7.5, 9.5},
                        }));
}

// The error of 2 stages and 2 micro-batches after `change`.
std::string fault(const std::function<void(SimulatedPipeline&)>& change) {
  SimulatedPipeline pipeline = pipeline_of({kOneFOneB, 2, 2, 1});
  pipeline.transfers = TransferMode::kBlockingSends;
  change(pipeline);
  try {
    simulate(pipeline);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInternal);
    return error.what();
  }
  return "no fault";
}

void drop(std::vector<PipelineAction>& list, const PipelineAction& action) { std::erase(list, action); }

TEST(PipelineSimulator, ListsThatDoNotFitTogetherAreRefusedWithStageAndAction) {
  EXPECT_EQ(fault([](auto&) {}), "no fault");
  EXPECT_THAT(fault([](auto& p) {
                drop(p.stages[0], {kSendForward, 0, 1});
              }),
              AllOf(HasSubstr("wait for ever"), HasSubstr("stage 1 waits in receive forward of micro-batch 1")));
  EXPECT_THAT(fault([](auto& p) {
                drop(p.stages[1], {kReceiveForward, 0, 1});
              }),
              HasSubstr("stage 1, forward of micro-batch 1: its input is not there"));
  EXPECT_THAT(fault([](auto& p) { drop(p.stages[0], {kBackward, 0, 1}); }), HasSubstr("neither sent nor used"));
  EXPECT_THAT(fault([](auto& p) {
                drop(p.stages[0], {kReceiveBackward, 0, 1});
                drop(p.stages[0], {kBackward, 0, 1});
              }),
              AllOf(HasSubstr("stage 0"), HasSubstr("not every forward pass has a backward pass")));
  EXPECT_THAT(fault([](auto& p) { p.stages[0].push_back({kForward, 0, 0}); }), HasSubstr("it is done already"));
  EXPECT_THAT(fault([](auto& p) {
                p.stages[0].insert(p.stages[0].begin(), {kSendForward, 0, 0});
              }),
              HasSubstr("nothing to send"));
  EXPECT_THAT(
      fault([](auto& p) {
        for (PipelineAction& action : p.stages[1])
          if (is_receive(action.kind)) action.micro_batch = 1 - action.micro_batch;
      }),
      AllOf(HasSubstr("stage 1, receive forward of micro-batch 1"), HasSubstr("send forward of micro-batch 0")));
  EXPECT_THAT(fault([](auto& p) { p.stages[0][0].chunk = 1; }), HasSubstr("no such chunk"));
  // Gradients asked for before the passes that lead to them.
  EXPECT_THAT(fault([](auto& p) {
                auto& list = p.stages[0];
                drop(list, {kReceiveBackward, 0, 1});
                list.insert(list.begin(), {kReceiveBackward, 0, 1});
              }),
              AllOf(HasSubstr("wait for ever"), HasSubstr("stage 0 waits in receive backward of micro-batch 1")));
}

}  // namespace
}  // namespace qat::dist
