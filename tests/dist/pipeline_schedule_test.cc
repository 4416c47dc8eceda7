#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "dist/pipeline/schedule.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

using enum PipelineSchedule;
using enum ActionKind;

// "F0 F1 B0": the passes of a list, with a letter for further chunks, "F0b".
std::string passes(const std::vector<PipelineAction>& actions) {
  std::string text;
  for (const PipelineAction& action : actions) {
    if (is_transfer(action.kind)) continue;
    if (!text.empty()) text += ' ';
    text += (action.kind == kForward ? "F" : "B") + std::to_string(action.micro_batch);
    if (action.chunk > 0) text += static_cast<char>('a' + action.chunk);
  }
  return text;
}

TEST(PipelineSchedule, GpipeRunsAllForwardAndThenAllBackward) {
  for (const int stage : {0, 1, 2}) EXPECT_EQ(passes(stage_actions(kGpipe, stage, 3, 4)), "F0 F1 F2 F3 B0 B1 B2 B3");
}

TEST(PipelineSchedule, OneFOneBAlternatesOnceTheFirstGradientCanBeBack) {
  EXPECT_EQ(passes(stage_actions(kOneFOneB, 0, 3, 4)), "F0 F1 F2 B0 F3 B1 B2 B3");
  EXPECT_EQ(passes(stage_actions(kOneFOneB, 1, 3, 4)), "F0 F1 B0 F2 B1 F3 B2 B3");
  EXPECT_EQ(passes(stage_actions(kOneFOneB, 2, 3, 4)), "F0 B0 F1 B1 F2 B2 F3 B3");
  EXPECT_EQ(passes(stage_actions(kOneFOneB, 0, 4, 2)), "F0 F1 B0 B1");  // fewer micro-batches than stages
}

TEST(PipelineSchedule, InterleavedGoesThroughTheChunksInGroupsOfAsManyMicroBatchesAsStages) {
  EXPECT_EQ(passes(stage_actions(kInterleaved, 0, 2, 4, 2)), "F0 F1 F0b F1b F2 B0b F3 B1b F2b B0 F3b B1 B2b B3b B2 B3");
  EXPECT_EQ(passes(stage_actions(kInterleaved, 1, 2, 4, 2)), "F0 F1 F0b B0b F1b B1b F2 B0 F3 B1 F2b B2b F3b B3b B2 B3");
  // The same lists without the fourth micro-batch.
  EXPECT_EQ(passes(stage_actions(kInterleaved, 0, 2, 3, 2)), "F0 F1 F0b F1b F2 B0b B1b F2b B0 B1 B2b B2");
  for (const int stage : {0, 1, 2})
    EXPECT_EQ(stage_actions(kInterleaved, stage, 3, 5, 1), stage_actions(kOneFOneB, stage, 3, 5));
}

TEST(PipelineSchedule, AReceiveStandsBeforeItsPassAndASendBehindIt) {
  EXPECT_EQ(stage_actions(kOneFOneB, 1, 3, 1), (std::vector<PipelineAction>{{kReceiveForward, 0, 0},
                                                                            {kForward, 0, 0},
                                                                            {kSendForward, 0, 0},
                                                                            {kReceiveBackward, 0, 0},
                                                                            {kBackward, 0, 0},
                                                                            {kSendBackward, 0, 0}}));
  EXPECT_EQ(stage_actions(kOneFOneB, 0, 2, 1),
            (std::vector<PipelineAction>{
                {kForward, 0, 0}, {kSendForward, 0, 0}, {kReceiveBackward, 0, 0}, {kBackward, 0, 0}}));
  EXPECT_EQ(stage_actions(kOneFOneB, 1, 2, 1),
            (std::vector<PipelineAction>{
                {kReceiveForward, 0, 0}, {kForward, 0, 0}, {kBackward, 0, 0}, {kSendBackward, 0, 0}}));
  EXPECT_EQ(forward_actions(kOneFOneB, 1, 2, 1),
            (std::vector<PipelineAction>{{kReceiveForward, 0, 0}, {kForward, 0, 0}}));
}

TEST(PipelineSchedule, ASingleStageHasNoTransfersWhateverItsChunks) {
  EXPECT_EQ(stage_actions(kInterleaved, 0, 1, 1, 2),
            (std::vector<PipelineAction>{{kForward, 0, 0}, {kForward, 1, 0}, {kBackward, 1, 0}, {kBackward, 0, 0}}));
}

TEST(PipelineSchedule, TransfersGoAroundTheStagesOnceAChunk) {
  EXPECT_EQ(peer_of({kSendForward, 0, 0}, 0, 4, 2), (PipelinePeer{1, 0}));
  EXPECT_EQ(peer_of({kSendForward, 0, 0}, 3, 4, 2), (PipelinePeer{0, 1}));
  EXPECT_EQ(peer_of({kReceiveForward, 1, 0}, 0, 4, 2), (PipelinePeer{3, 0}));
  EXPECT_EQ(peer_of({kSendBackward, 1, 0}, 0, 4, 2), (PipelinePeer{3, 0}));
  EXPECT_EQ(peer_of({kReceiveBackward, 0, 0}, 3, 4, 2), (PipelinePeer{0, 1}));
  EXPECT_THROW(peer_of({kReceiveForward, 0, 0}, 0, 4, 2), Error);  // tokens come from nobody
  EXPECT_THROW(peer_of({kSendForward, 1, 0}, 3, 4, 2), Error);
  EXPECT_THROW(peer_of({kForward, 0, 0}, 1, 4, 1), Error);
}

TEST(PipelineSchedule, ShapesThatNoConfigurationMayHaveAreBrokenPromises) {
  EXPECT_THROW(stage_actions(kOneFOneB, 2, 2, 1), Error);
  EXPECT_THROW(stage_actions(kOneFOneB, 0, 2, 0), Error);
  EXPECT_THROW(stage_actions(kGpipe, 0, 2, 4, 2), Error);
  EXPECT_THROW(stage_actions(kInterleaved, 0, 2, 4, 0), Error);
}

TEST(PipelineSchedule, ActionsHaveWords) {
  EXPECT_EQ(to_text({kReceiveBackward, 0, 3}, 1), "receive backward of micro-batch 3");
  EXPECT_EQ(to_text({kForward, 2, 0}, 4), "forward of micro-batch 0, chunk 2");
}

}  // namespace
}  // namespace qat::dist
