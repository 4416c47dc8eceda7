// The watchdogs of several ranks in one process, ranks being threads: what they say to each other over real sockets,
// and who ends the run, with what. Ranks that misbehave are made by hand. Real processes: watch_fault_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "dist/comm/local_comm.h"
#include "dist/watch/directory.h"
#include "dist/watch/watchdog.h"

namespace qat::dist {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

void rest(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

bool until(const std::function<bool()>& condition, double seconds = 20.0) {
  for (double waited = 0.0; waited < seconds; waited += 0.005) {
    if (condition()) return true;
    rest(0.005);
  }
  return false;
}

// What the watchdogs of a test did to end the run.
class Ends {
 public:
  WatchdogOptions options(int rank, double limit) {
    WatchdogOptions options{.limit_seconds = limit, .host = "host" + std::to_string(rank)};
    options.on_end = [this, rank](const EndReport& report) {
      const std::lock_guard lock(mutex_);
      reports_.emplace_back(rank, report);
    };
    options.terminate = [this, rank](int code) {
      const std::lock_guard lock(mutex_);
      codes_[rank] = code;
    };
    return options;
  }
  std::map<int, int> codes() {
    const std::lock_guard lock(mutex_);
    return codes_;
  }
  // Who spoke, and what.
  std::vector<std::pair<int, EndReport>> reports() {
    const std::lock_guard lock(mutex_);
    return reports_;
  }
  bool wait_for(std::size_t ranks) {
    return until([&] { return codes().size() == ranks; });
  }

 private:
  std::mutex mutex_;
  std::map<int, int> codes_;
  std::vector<std::pair<int, EndReport>> reports_;
};

// A rank's side of a connection, made by hand.
class HandMadeRank {
 public:
  HandMadeRank(const Directory& directory, const std::string& token) {
    Socket socket = begin_connect("127.0.0.1", directory.of(0).port);
    pollfd poll_one{.fd = socket.get(), .events = POLLOUT, .revents = 0};
    ::poll(&poll_one, 1, 5000);
    EXPECT_EQ(connect_result(socket), 0);
    connection_ = std::make_unique<Connection>(std::move(socket));
    connection_->send(FrameType::kHello, Packer().text(token).word(static_cast<std::uint64_t>(directory.rank)).take());
  }
  void beat(const RankState& state = {}) { connection_->send(FrameType::kBeat, pack(state)); }
  void send(FrameType type) { connection_->send(type); }
  // Waits for a frame of that type; false: the connection ended before.
  bool receives(FrameType type) {
    bool open = true;
    return until([&] {
             open = connection_->receive();
             while (const auto frame = connection_->next())
               if (frame->type == type) return true;
             return !open;
           }) &&
           open;
  }
  void vanish() { connection_.reset(); }

 private:
  std::unique_ptr<Connection> connection_;
};

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

// ---- rank 0 is lost

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
