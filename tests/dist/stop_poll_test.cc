// Why a run stops, agreed at places that every rank passes.
#include "dist/control/stop_poll.h"

#include <gtest/gtest.h>

#include "dist/comm/local_comm.h"

namespace qat::dist {
namespace {

TEST(StopPoll, TheLargestReasonIsEveryRanksAnswer) {
  run_local_ranks(3, [](Communicator& comm) {
    StopPoll poll(comm, [&] { return comm.rank() == 1 ? 15 : comm.rank() == 2 ? 2 : 0; });
    EXPECT_EQ(poll.ask(), 15);
    EXPECT_EQ(StopPoll(comm).ask(), kNotStopping);
    EXPECT_EQ(StopPoll(comm, [&] { return comm.rank() == 0 ? kRecordsFailed : 15; }).ask(), kRecordsFailed);
  });
}

TEST(Pace, FitsSoManyUnitsIntoItsSeconds) {
  Pace pace(1.0);
  EXPECT_EQ(pace.units(), 1);
  pace.learn(1, 0.25);
  EXPECT_EQ(pace.units(), 4);
  pace.learn(4, 100.0);
  EXPECT_EQ(pace.units(), 1);
}

TEST(Pace, GrowsStepByStepAndNotWithoutEnd) {
  Pace pace(1.0);
  pace.learn(1, 1e-6);
  EXPECT_EQ(pace.units(), 16);  // one quick unit says little
  for (int i = 0; i < 20; ++i) pace.learn(pace.units(), 0.0);
  EXPECT_EQ(pace.units(), 1 << 20);
}

TEST(StopPoll, RanksThatWorkAtDifferentSpeedKeepOnePace) {
  run_local_ranks(4, [](Communicator& comm) {
    double now = 0.0;
    StopPoll poll(comm, {}, [&] { return now; });
    Pace pace(1.0);
    poll.start();
    now += comm.rank() == 3 ? 0.5 : 0.01;
    EXPECT_EQ(poll.ask(pace, 1), 0);
    EXPECT_EQ(pace.units(), 2);  // the slowest rank's
    now += 0.1;
    EXPECT_EQ(poll.ask(pace, 2), 0);
    EXPECT_EQ(pace.units(), 20);
  });
}

}  // namespace
}  // namespace qat::dist
