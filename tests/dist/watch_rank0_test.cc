// The watchdogs of several ranks in one process when rank 0, to which all report, is lost or cannot be reached.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "dist/comm/local_comm.h"
#include "tests/dist/watch_harness.h"

namespace qat::dist {
namespace {

using test::Ends;
using test::until;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

enum class Loss { kCloses, kFallsSilent };

// Rank 0 by hand: welcomes the others, and is then lost. Rank 1 is not there at all if `without_rank_1`.
void lose_rank_0(Ends& ends, int ranks, Loss loss, bool without_rank_1) {
  const double limit = loss == Loss::kCloses ? 60.0 : 0.5;  // what is to be found at once must not need it
  run_local_ranks(ranks, [&](Communicator& comm) {
    ProgressBoard board;
    if (comm.rank() == 1 && without_rank_1) {
      meet(comm, "host1");  // its listener closes
      comm.barrier();
      return;
    }
    if (comm.rank() != 0) {
      Watchdog watchdog(comm, board, ends.options(comm.rank(), limit));
      comm.barrier();
      EXPECT_TRUE(until([&] { return ends.codes().contains(comm.rank()); }));
      return;
    }
    const Meeting meeting = meet(comm, "host0");
    std::vector<Connection> connections;
    while (static_cast<int>(connections.size()) < ranks - (without_rank_1 ? 2 : 1)) {
      if (Socket socket = accept_connection(meeting.listener.socket); socket.valid()) {
        connections.emplace_back(std::move(socket));
        connections.back().send(FrameType::kWelcome);
        connections.back().send(FrameType::kBeat, Packer().number(limit).take());
      }
    }
    comm.barrier();
    if (loss == Loss::kCloses) connections.clear();
    EXPECT_TRUE(ends.wait_for(static_cast<std::size_t>(ranks - (without_rank_1 ? 2 : 1))));
  });
}

TEST(WatchProtocol, TheLowestLivingRankStandsInForALostRank0) {
  for (const bool without_rank_1 : {false, true}) {
    for (const Loss loss : {Loss::kCloses, Loss::kFallsSilent}) {
      Ends ends;
      lose_rank_0(ends, 4, loss, without_rank_1);
      const int code = loss == Loss::kCloses ? 6 : 7;
      for (const auto& [rank, its_code] : ends.codes()) EXPECT_EQ(its_code, code) << "rank " << rank;
      ASSERT_EQ(ends.reports().size(), 1U);
      const auto [speaker, report] = ends.reports()[0];
      EXPECT_EQ(speaker, without_rank_1 ? 2 : 1);
      EXPECT_EQ(report.verdict.rank, 0);
      EXPECT_EQ(report.verdict.fault, loss == Loss::kCloses ? Fault::kDied : Fault::kSilent);
      EXPECT_EQ(report.host, "host0");
      EXPECT_THAT(report.others, HasSubstr("3: set-up"));
    }
  }
}

// ---- ranks that do not find each other

TEST(WatchProtocol, ARankWithoutAWayToRank0SaysSoAndWatchesItself) {
  Ends ends;
  run_local_ranks(2, [&](Communicator& comm) {
    ProgressBoard board;
    if (comm.rank() == 0) {
      meet(comm, "host0");  // its listener closes
      return;
    }
    WatchdogOptions options = ends.options(1, /*limit=*/1.0);
    options.connect_seconds = 0.3;
    Watchdog watchdog(comm, board, options);
    std::vector<std::string> warnings;
    EXPECT_TRUE(until([&] {
      board.beat();
      warnings = watchdog.take_warnings();
      return !warnings.empty();
    }));
    EXPECT_THAT(warnings, ElementsAre(HasSubstr("finds no way to rank 0's at host0")));
    EXPECT_THAT(warnings[0], HasSubstr("refused"));
    EXPECT_THAT(ends.codes(), IsEmpty()) << "training goes on";
    EXPECT_TRUE(ends.wait_for(1)) << "until it stands";
  });
  EXPECT_THAT(ends.codes(), ElementsAre(Pair(1, 7)));
  ASSERT_EQ(ends.reports().size(), 1U);
  EXPECT_EQ(ends.reports()[0].second.verdict.rank, 1);
}

TEST(WatchProtocol, Rank0SaysWhichRanksHaveNotCome) {
  Ends ends;
  run_local_ranks(3, [&](Communicator& comm) {
    ProgressBoard board;
    if (comm.rank() != 0) {
      meet(comm, "elsewhere");
      comm.barrier();
      return;
    }
    WatchdogOptions options = ends.options(0, /*limit=*/20.0);
    options.connect_seconds = 0.1;
    Watchdog watchdog(comm, board, options);
    std::vector<std::string> warnings;
    EXPECT_TRUE(until([&] {
      warnings = watchdog.take_warnings();
      return !warnings.empty();
    }));
    EXPECT_THAT(warnings, ElementsAre(HasSubstr("ranks 1, 2")));
    comm.barrier();
  });
  EXPECT_THAT(ends.codes(), IsEmpty());
}

}  // namespace
}  // namespace qat::dist
