#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dist/pipeline/timeline.h"

namespace qat::dist {
namespace {

using enum ActionKind;

// Two ranks, out of order.
const Timeline kTwoRanks{
    {5, {kForward, 1, 3}, 1000.25, 1500.0}, {4, {kSendForward, 0, 3}, 900.0, 1000.25},
    {4, {kForward, 0, 3}, 100.0, 900.0},    {5, {kReceiveForward, 1, 3}, 900.0, 1000.25},
    {5, {kBackward, 1, 3}, 1500.0, 2100.0},
};

TEST(PipelineTimeline, CsvHasALineForEverySpanInOrderOfRanksAndTimes) {
  EXPECT_EQ(to_csv(kTwoRanks),
            "rank,action,micro_batch,chunk,begin_us,end_us\n"
            "4,forward,3,0,100.000,900.000\n"
            "4,send forward,3,0,900.000,1000.250\n"
            "5,receive forward,3,1,900.000,1000.250\n"
            "5,forward,3,1,1000.250,1500.000\n"
            "5,backward,3,1,1500.000,2100.000\n");
  EXPECT_EQ(to_csv({}), "rank,action,micro_batch,chunk,begin_us,end_us\n");
}

TEST(PipelineTimeline, ChromeTraceHasAProcessForEveryRankAndARowForEachKindOfTransfer) {
  const Timeline one{{4, {kForward, 0, 3}, 100.0, 900.5}, {4, {kSendForward, 1, 3}, 900.5, 1000.0}};
  EXPECT_EQ(to_chrome_trace(one),
            R"({"displayTimeUnit":"ms","traceEvents":[
{"ph":"M","name":"process_name","pid":4,"tid":0,"args":{"name":"rank 4"}},
{"ph":"M","name":"process_sort_index","pid":4,"tid":0,"args":{"sort_index":4}},
{"ph":"M","name":"thread_name","pid":4,"tid":0,"args":{"name":"passes"}},
{"ph":"M","name":"thread_sort_index","pid":4,"tid":0,"args":{"sort_index":0}},
{"ph":"M","name":"thread_name","pid":4,"tid":2,"args":{"name":"send forward"}},
{"ph":"M","name":"thread_sort_index","pid":4,"tid":2,"args":{"sort_index":2}},
{"ph":"X","name":"F3","cat":"forward","pid":4,"tid":0,"ts":100.000,"dur":800.500,"args":{"micro_batch":3,"chunk":0}},
{"ph":"X","name":"F3.1","cat":"send forward","pid":4,"tid":2,"ts":900.500,"dur":99.500,"args":{"micro_batch":3,"chunk":1}}
]}
)");
  EXPECT_EQ(to_chrome_trace({}), "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n]}\n");
}

TEST(PipelineTimeline, IdleIsWhatNoPassTakesOfTheTimeFromTheFirstToTheLast) {
  const std::vector<RankUse> uses = rank_use(kTwoRanks);
  ASSERT_EQ(uses.size(), 2U);
  EXPECT_EQ(uses[0].rank, 4);
  EXPECT_DOUBLE_EQ(uses[0].forward_us, 800.0);
  EXPECT_DOUBLE_EQ(uses[0].idle_us, 1200.0);
  EXPECT_DOUBLE_EQ(uses[0].idle_share, 0.6);
  EXPECT_EQ(uses[1].rank, 5);
  EXPECT_DOUBLE_EQ(uses[1].forward_us, 499.75);
  EXPECT_DOUBLE_EQ(uses[1].backward_us, 600.0);
  EXPECT_DOUBLE_EQ(uses[1].idle_us, 900.25);
  EXPECT_TRUE(rank_use({}).empty());
}

}  // namespace
}  // namespace qat::dist
