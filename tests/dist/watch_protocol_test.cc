// The watchdogs of several ranks in one process, ranks being threads: what they say to each other over real sockets,
// and who ends the run, with what. Ranks that misbehave are made by hand. Real processes: watch_fault_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "dist/comm/local_comm.h"
#include "tests/dist/watch_harness.h"

namespace qat::dist {
namespace {

using test::Ends;
using test::HandMadeRank;
using test::rest;
using test::until;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

TEST(WatchProtocol, RanksThatEndInGoodOrderEndNobody) {
  for (const int late : {0, 1}) {
    Ends ends;
    run_local_ranks(3, [&](Communicator& comm) {
      ProgressBoard board;
      Watchdog watchdog(comm, board, ends.options(comm.rank(), /*limit=*/10.0));
      rest(0.05);
      comm.barrier();
      if (comm.rank() == late) rest(0.2);  // rank 0 last, and rank 0 before another
    });
    EXPECT_THAT(ends.codes(), IsEmpty());
    EXPECT_THAT(ends.reports(), IsEmpty());
  }
}

TEST(WatchProtocol, ARankThatVanishesEndsTheOthersWithSixAtOnce) {
  Ends ends;
  run_local_ranks(3, [&](Communicator& comm) {
    ProgressBoard board;
    if (comm.rank() == 1) {
      const Meeting meeting = meet(comm, "host1");
      HandMadeRank rank(meeting.directory, meeting.directory.token);
      EXPECT_TRUE(rank.receives(FrameType::kWelcome));
      rank.beat();
      EXPECT_TRUE(rank.receives(FrameType::kBeat));
      rank.vanish();
    } else {
      Watchdog watchdog(comm, board, ends.options(comm.rank(), /*limit=*/60.0));
      EXPECT_TRUE(until([&] { return ends.codes().contains(comm.rank()); }));
    }
  });
  EXPECT_THAT(ends.codes(), UnorderedElementsAre(Pair(0, 6), Pair(2, 6)));
  ASSERT_EQ(ends.reports().size(), 1U);
  const auto [speaker, report] = ends.reports()[0];
  EXPECT_EQ(speaker, 0);
  EXPECT_EQ(report.verdict.fault, Fault::kDied);
  EXPECT_EQ(report.verdict.rank, 1);
  EXPECT_EQ(report.host, "host1");
  EXPECT_FALSE(report.said);
  EXPECT_THAT(report.others, HasSubstr("set-up"));
}

TEST(WatchProtocol, StrangersAreSentAwayAndHarmNobody) {
  Ends ends;
  run_local_ranks(2, [&](Communicator& comm) {
    ProgressBoard board;
    if (comm.rank() == 0) {
      Watchdog watchdog(comm, board, ends.options(0, /*limit=*/10.0));
      comm.barrier();
      return;
    }
    const Meeting meeting = meet(comm, "host1");
    HandMadeRank stranger(meeting.directory, "not the token");
    EXPECT_FALSE(stranger.receives(FrameType::kWelcome));
    // One that gives up before its first beat may come again.
    HandMadeRank hasty(meeting.directory, meeting.directory.token);
    EXPECT_TRUE(hasty.receives(FrameType::kWelcome));
    hasty.vanish();
    HandMadeRank rank(meeting.directory, meeting.directory.token);
    rank.beat();
    EXPECT_TRUE(rank.receives(FrameType::kBeat));
    rank.send(FrameType::kFarewell);
    comm.barrier();
  });
  EXPECT_THAT(ends.codes(), IsEmpty());
}

TEST(WatchProtocol, ARankWithoutASignOfLifeIsFoundByItsSilence) {
  Ends ends;
  run_local_ranks(2, [&](Communicator& comm) {
    ProgressBoard board;
    if (comm.rank() == 0) {
      Watchdog watchdog(comm, board, ends.options(0, /*limit=*/0.4));
      const WaitMark waits(&board, WaitFor::kBarrier);
      EXPECT_TRUE(ends.wait_for(1));
      return;
    }
    const Meeting meeting = meet(comm, "host1");
    HandMadeRank rank(meeting.directory, meeting.directory.token);
    rank.beat({.section = Section::kSave, .steps = 3});
    EXPECT_TRUE(rank.receives(FrameType::kEnd));
  });
  EXPECT_THAT(ends.codes(), ElementsAre(Pair(0, 7)));
  const auto reports = ends.reports();
  ASSERT_EQ(reports.size(), 1U);
  EXPECT_EQ(reports[0].second.verdict.fault, Fault::kSilent);
  EXPECT_EQ(reports[0].second.verdict.rank, 1);
  EXPECT_EQ(reports[0].second.activity, "save");
}

TEST(WatchProtocol, TheRankThatDoesNotWaitIsToBlame) {
  Ends ends;
  run_local_ranks(4, [&](Communicator& comm) {
    ProgressBoard board;
    Watchdog watchdog(comm, board, ends.options(comm.rank(), /*limit=*/0.5));
    board.enter(Section::kStep);
    board.set_steps(8);
    const WaitMark waits(comm.rank() == 2 ? nullptr : &board, WaitFor::kAllReduce);
    EXPECT_TRUE(ends.wait_for(4));
  });
  EXPECT_THAT(ends.codes(), ElementsAre(Pair(0, 7), Pair(1, 7), Pair(2, 7), Pair(3, 7)));
  ASSERT_EQ(ends.reports().size(), 1U);
  const EndReport report = ends.reports()[0].second;
  EXPECT_EQ(report.verdict.fault, Fault::kStuck);
  EXPECT_EQ(report.verdict.rank, 2);
  EXPECT_EQ(report.steps, 8);
  EXPECT_EQ(report.activity, "step");
  EXPECT_EQ(report.others, "ranks 0, 1, 3: step, in all_reduce");
}

TEST(WatchProtocol, RanksThatAllWaitAreAHang) {
  Ends ends;
  run_local_ranks(3, [&](Communicator& comm) {
    ProgressBoard board;
    Watchdog watchdog(comm, board, ends.options(comm.rank(), /*limit=*/0.5));
    const WaitMark waits(&board, comm.rank() == 1 ? WaitFor::kReceive : WaitFor::kBarrier);
    EXPECT_TRUE(ends.wait_for(3));
  });
  EXPECT_THAT(ends.codes(), ElementsAre(Pair(0, 7), Pair(1, 7), Pair(2, 7)));
  ASSERT_EQ(ends.reports().size(), 1U);
  EXPECT_EQ(ends.reports()[0].second.verdict.fault, Fault::kHang);
  EXPECT_THAT(ends.reports()[0].second.what, HasSubstr("rank 1: set-up, in receive"));
}

TEST(WatchProtocol, ARankThatGetsOnIsLeftAlone) {
  Ends ends;
  run_local_ranks(2, [&](Communicator& comm) {
    ProgressBoard board;
    Watchdog watchdog(comm, board, ends.options(comm.rank(), /*limit=*/2.0));
    // The others wait for three limits, while rank 1 works and says so.
    for (int i = 0; i < 60 && comm.rank() == 1; ++i) {
      board.beat();
      rest(0.1);
    }
    const WaitMark waits(&board, WaitFor::kBarrier);
    comm.barrier();
  });
  EXPECT_THAT(ends.codes(), IsEmpty());
}

TEST(WatchProtocol, AWorldOfOneIsWatchedWithoutSockets) {
  Ends ends;
  const auto comm = make_single_comm();
  EXPECT_FALSE(meet(*comm, "host0").listener.socket.valid());
  ProgressBoard board;
  std::atomic<int> news{0};
  WatchdogOptions options = ends.options(0, /*limit=*/0.5);
  options.on_change = [&](const BoardView& view) { news = static_cast<int>(view.steps); };
  Watchdog watchdog(*comm, board, options);
  board.enter(Section::kStep);
  board.set_steps(4);
  EXPECT_TRUE(until([&] { return news == 4; }));
  EXPECT_TRUE(ends.wait_for(1));
  EXPECT_EQ(ends.codes()[0], 7);
  EXPECT_EQ(ends.reports()[0].second.what, "rank 0 makes no progress");
}

// ---- a rank that fails and says so

TEST(WatchProtocol, AFailingRankSpeaksAndEndsAllWithItsCode) {
  Ends ends;
  run_local_ranks(3, [&](Communicator& comm) {
    ProgressBoard board;
    Watchdog watchdog(comm, board, ends.options(comm.rank(), /*limit=*/60.0));
    rest(0.2);
    if (comm.rank() == 1) {
      EXPECT_TRUE(watchdog.announce_failure(3, "no data"));
      EXPECT_THAT(ends.codes(), IsEmpty()) << "nobody ends before the message is out";
      watchdog.end_with_failure();
    }
    EXPECT_TRUE(ends.wait_for(3));
  });
  EXPECT_THAT(ends.codes(), ElementsAre(Pair(0, 3), Pair(1, 3), Pair(2, 3)));
  ASSERT_EQ(ends.reports().size(), 1U);
  EXPECT_TRUE(ends.reports()[0].second.said);
  EXPECT_EQ(ends.reports()[0].second.what, "no data");
  EXPECT_EQ(ends.reports()[0].second.verdict.rank, 1);
}

TEST(WatchProtocol, OfRanksThatFailTogetherOneSpeaks) {
  Ends ends;
  std::atomic<int> speakers{0};
  run_local_ranks(4, [&](Communicator& comm) {
    ProgressBoard board;
    Watchdog watchdog(comm, board, ends.options(comm.rank(), /*limit=*/60.0));
    rest(0.2);
    comm.barrier();
    const bool speaks = watchdog.announce_failure(5, "out of memory");
    speakers += speaks ? 1 : 0;
    if (speaks) rest(0.1);
    if (speaks) watchdog.end_with_failure();
    EXPECT_TRUE(ends.wait_for(4));
  });
  EXPECT_EQ(speakers, 1);
  for (const auto& [rank, code] : ends.codes()) EXPECT_EQ(code, 5) << rank;
}

TEST(WatchProtocol, ADeathIsToBlameForTheFailureToCommunicateThatItCauses) {
  Ends ends;
  run_local_ranks(3, [&](Communicator& comm) {
    ProgressBoard board;
    if (comm.rank() == 2) {
      const Meeting meeting = meet(comm, "host2");
      HandMadeRank rank(meeting.directory, meeting.directory.token);
      rank.beat();
      EXPECT_TRUE(rank.receives(FrameType::kBeat));
      comm.barrier();
      rest(0.1);  // rank 1 sees it first
      rank.vanish();
      return;
    }
    Watchdog watchdog(comm, board, ends.options(comm.rank(), /*limit=*/60.0));
    rest(0.2);
    comm.barrier();
    if (comm.rank() == 1) {
      EXPECT_FALSE(watchdog.announce_failure(6, "MPI failed"));
    }
    EXPECT_TRUE(ends.wait_for(2));
  });
  EXPECT_THAT(ends.codes(), ElementsAre(Pair(0, 6), Pair(1, 6)));
  ASSERT_EQ(ends.reports().size(), 1U);
  EXPECT_EQ(ends.reports()[0].second.verdict.fault, Fault::kDied);
  EXPECT_EQ(ends.reports()[0].second.verdict.rank, 2);
}

}  // namespace
}  // namespace qat::dist
