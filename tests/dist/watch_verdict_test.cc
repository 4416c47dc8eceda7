#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dist/watch/frames.h"
#include "dist/watch/verdict.h"

namespace qat::dist {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr LimitRule kRule{.ceiling = 10.0};

RankState working(double stalled, std::int64_t steps = 5) {
  return {.link = Link::kUp, .section = Section::kStep, .steps = steps, .stalled = stalled};
}
RankState waiting(double stalled, WaitFor wait = WaitFor::kAllReduce) {
  RankState state = working(stalled);
  state.waits_for = wait;
  return state;
}
RankState silent(double seconds) {
  RankState state = working(seconds);
  state.silent = seconds;
  return state;
}
RankState linked(Link link) {
  RankState state = working(0.0);
  state.link = link;
  return state;
}

TEST(Verdict, IsNoneWhileRanksGetOn) {
  EXPECT_FALSE(judge(std::vector{working(1), waiting(9), silent(9)}, kRule));
  EXPECT_FALSE(judge(std::vector{working(1), waiting(1000)}, kRule)) << "who waits is not to blame";
  EXPECT_FALSE(judge(std::vector{working(1), linked(Link::kLeft), linked(Link::kNever)}, kRule));
}

TEST(Verdict, ALostConnectionIsADeathAtOnce) {
  const std::vector ranks{waiting(0), linked(Link::kGone), waiting(0)};
  const auto verdict = judge(ranks, kRule);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->fault, Fault::kDied);
  EXPECT_EQ(verdict->rank, 1);
  EXPECT_EQ(verdict->exit_code, 6);
  EXPECT_THAT(to_text(*verdict, ranks), HasSubstr("rank 1 is gone"));
}

TEST(Verdict, SilenceBeyondTheLimitIsAStoppedRank) {
  const auto verdict = judge(std::vector{waiting(11), waiting(11), silent(10.5)}, kRule);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->fault, Fault::kSilent);
  EXPECT_EQ(verdict->rank, 2);
  EXPECT_EQ(verdict->exit_code, 7);
  EXPECT_EQ(verdict->seconds, 10.5);
}

TEST(Verdict, WhoDoesNotWaitIsToBlame) {
  const auto verdict = judge(std::vector{waiting(20), working(10.5), waiting(20)}, kRule);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->fault, Fault::kStuck);
  EXPECT_EQ(verdict->rank, 1);
  EXPECT_EQ(verdict->exit_code, 7);
}

TEST(Verdict, OfSeveralThatStandTheOneFurthestBehindIsToBlame) {
  const auto steps = judge(std::vector{working(11, 5), working(10.5, 4), working(11, 5)}, kRule);
  ASSERT_TRUE(steps);
  EXPECT_EQ(steps->rank, 1);
  const auto longest = judge(std::vector{working(11), working(11), working(13)}, kRule);
  ASSERT_TRUE(longest);
  EXPECT_EQ(longest->rank, 2);
}

TEST(Verdict, ARankMuteForHalfItsLimitIsWhyTheOthersStand) {
  // Ranks that wait for a GPU do not say so everywhere.
  const auto verdict = judge(std::vector{working(10.5), silent(9.8), working(10.5)}, kRule);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->fault, Fault::kSilent);
  EXPECT_EQ(verdict->rank, 1);
}

TEST(Verdict, AllWaitingIsAHangThatSaysWhoWaitsInWhat) {
  const std::vector ranks{waiting(11), waiting(12, WaitFor::kBroadcast), waiting(11), linked(Link::kLeft)};
  const auto verdict = judge(ranks, kRule);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->fault, Fault::kHang);
  EXPECT_EQ(verdict->exit_code, 7);
  EXPECT_THAT(to_text(*verdict, ranks),
              HasSubstr("ranks 0, 2: step, in all_reduce; rank 1: step, in broadcast; rank 3: has finished"));
  EXPECT_FALSE(judge(std::vector{waiting(11), waiting(9)}, kRule)) << "one of them has just come";
}

TEST(Verdict, AWorldOfOneIsJudgedToo) {
  EXPECT_FALSE(judge(std::vector{working(9)}, kRule));
  const std::vector ranks{working(11)};
  const auto verdict = judge(ranks, kRule);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->fault, Fault::kStuck);
  EXPECT_THAT(to_text(*verdict, ranks), Not(HasSubstr("others")));
}

TEST(Verdict, EverySectionHasItsOwnLimitOverAllRanks) {
  const LimitRule rule;  // 600, or from 30
  RankState quick = working(31);
  quick.history.completed.fill(10);
  quick.history.longest_gap.fill(0.1);
  EXPECT_TRUE(judge(std::vector{quick, quick}, rule));
  RankState slow = quick;
  slow.stalled = 0;
  slow.history.longest_gap[static_cast<std::size_t>(Section::kStep)] = 4.0;
  EXPECT_FALSE(judge(std::vector{quick, slow}, rule)) << "40 s, since one rank has taken 4";
  quick.section = Section::kSave;
  EXPECT_TRUE(judge(std::vector{quick, slow}, rule));
  slow.history.completed[static_cast<std::size_t>(Section::kSave)] = 2;
  EXPECT_FALSE(judge(std::vector{quick, slow}, rule)) << "not known well enough on every rank";
}

TEST(Verdict, ActivitiesGroupRanksThatDoTheSame) {
  RankState gpu = waiting(1, WaitFor::kDevice);
  const std::vector ranks{waiting(1), working(1), waiting(1), gpu, linked(Link::kNever)};
  const std::string text = activities(ranks, /*except=*/1);
  EXPECT_THAT(text, HasSubstr("ranks 0, 2: step, in all_reduce; rank 3: step, waits for the GPU; rank 4: not known"));
}

TEST(WatchFrames, AStateTravels) {
  RankState state = waiting(3.5, WaitFor::kReceive);
  state.section = Section::kEvaluation;
  state.beats = 77;
  state.history.longest_gap[2] = 1.25;
  state.history.completed[6] = 9;
  const auto back = unpack_state(pack(state));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->section, Section::kEvaluation);
  EXPECT_EQ(back->waits_for, WaitFor::kReceive);
  EXPECT_EQ(back->steps, 5);
  EXPECT_EQ(back->beats, 77U);
  EXPECT_EQ(back->stalled, 3.5);
  EXPECT_EQ(back->history.longest_gap, state.history.longest_gap);
  EXPECT_EQ(back->history.completed, state.history.completed);
}

TEST(WatchFrames, NonsenseIsRecognised) {
  EXPECT_FALSE(unpack_state("short"));
  std::string bad = pack(working(1));
  bad[0] = 100;  // no such section
  EXPECT_FALSE(unpack_state(bad));
  const std::string order = pack(EndOrder{.exit_code = 6, .kill = {1, 5}});
  EXPECT_EQ(unpack_end(order)->kill, (std::vector{1, 5}));
  EXPECT_FALSE(unpack_end(order.substr(0, order.size() - 1)));
  Unpacker in(Packer().word(1000).take());
  EXPECT_EQ(in.text(), "");
  EXPECT_FALSE(in.ok());
}

}  // namespace
}  // namespace qat::dist
