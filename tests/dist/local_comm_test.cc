#include "dist/comm/local_comm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "tests/dist/communicator_cases.h"

namespace qat::dist {
namespace {

using ::testing::HasSubstr;

class LocalCommunicator : public ::testing::TestWithParam<std::tuple<testing::CommunicatorCase, int>> {};

TEST_P(LocalCommunicator, Obeys) {
  const auto& [contract, size] = GetParam();
  run_local_ranks(size, contract.body);
}
INSTANTIATE_TEST_SUITE_P(Contract, LocalCommunicator,
                         ::testing::Combine(::testing::ValuesIn(testing::communicator_cases()),
                                            ::testing::Values(1, 2, 3, 4, 8)),
                         [](const auto& tested) {
                           return std::string(std::get<0>(tested.param).name) + "On" +
                                  std::to_string(std::get<1>(tested.param));
                         });

std::string communication_error(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCommunication) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "the call succeeded";
  return {};
}

TEST(LocalGroup, ARankThatThrowsEndsTheWaitOfAllOthers) {
  std::atomic<int> lost = 0;
  const auto body = [&](Communicator& comm) {
    comm.barrier();
    if (comm.rank() == 2) throw std::runtime_error("out of luck");
    std::vector<float> values(10);
    EXPECT_THAT(communication_error([&] { comm.all_reduce(view(values), ReduceOp::kSum); }), HasSubstr("lost rank 2"));
    ++lost;
  };
  try {
    run_local_ranks(4, body);
    ADD_FAILURE() << "the exception was lost";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "out of luck");
  }
  EXPECT_EQ(lost, 3);
}

TEST(LocalGroup, TheCauseIsRethrownAndNotItsEcho) {
  const auto body = [](Communicator& comm) {
    if (comm.rank() == 3) throw Error(ErrorKind::kData, "cause");
    comm.barrier();  // throws kCommunication on ranks 0-2
  };
  try {
    run_local_ranks(4, body);
    ADD_FAILURE() << "the exception was lost";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "cause");
  }
}

TEST(LocalGroup, AReceiverLearnsThatTheSenderLeftButGetsWhatWasSent) {
  run_local_ranks(2, [](Communicator& comm) {
    std::vector<std::int32_t> value{7};
    if (comm.rank() == 0) return comm.send(view(value), 1, /*tag=*/5);
    value[0] = 0;
    comm.receive(view(value), 0, 5);
    EXPECT_EQ(value[0], 7);
    EXPECT_THAT(communication_error([&] { comm.receive(view(value), 0, 5); }), HasSubstr("lost rank 0"));
  });
}

TEST(LocalGroup, AnAbortEndsEveryWait) {
  std::vector<std::unique_ptr<Communicator>> ranks = make_local_group(3);
  std::vector<std::int32_t> value(1);
  std::jthread in_barrier(
      [&] { EXPECT_THAT(communication_error([&] { ranks[1]->barrier(); }), HasSubstr("enough of this")); });
  std::jthread in_receive([&] {
    EXPECT_THAT(communication_error([&] { ranks[2]->receive(view(value), 0, 0); }), HasSubstr("enough of this"));
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // most likely both wait by now; they must not need to
  abort_local_group(*ranks[0], "enough of this");
  in_barrier.join();
  in_receive.join();
  EXPECT_THAT(communication_error([&] { ranks[0]->barrier(); }), HasSubstr("enough of this"));
}

TEST(LocalGroup, DifferentCallsAreFoundOnEveryRank) {
  std::atomic<int> found = 0;
  run_local_ranks(3, [&](Communicator& comm) {
    std::vector<float> values(comm.rank() == 1 ? 5 : 4);
    try {
      comm.all_reduce(view(values), ReduceOp::kSum);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInternal);
      EXPECT_THAT(error.what(), HasSubstr("rank 1 calls all_reduce (elements 5"));
      ++found;
    }
  });
  EXPECT_EQ(found, 3);
}

TEST(LocalGroup, AMessageOfAnotherSizeIsRefused) {
  run_local_ranks(2, [](Communicator& comm) {
    std::vector<std::int32_t> values(comm.rank() == 0 ? 3 : 4);
    if (comm.rank() == 0) return comm.send(view(values), 1, 0);
    EXPECT_THROW(comm.receive(view(values), 0, 0), Error);
  });
}

// A thousand short collectives with ranks out of step: a peer must never see the next call's buffers.
TEST(LocalGroup, CollectivesInARowDoNotMix) {
  run_local_ranks(4, [](Communicator& comm) {
    for (std::int32_t turn = 0; turn < 1000; ++turn) {
      std::vector<std::int32_t> values{turn * (comm.rank() + 1), turn};
      comm.all_reduce(view(values), ReduceOp::kSum);
      ASSERT_EQ(values, (std::vector<std::int32_t>{10 * turn, 4 * turn}));
      std::vector<std::int32_t> root{comm.rank() == turn % 4 ? turn : -1};
      comm.broadcast(view(root), turn % 4);
      ASSERT_EQ(root[0], turn);
    }
  });
}

TEST(SingleComm, IsAWorldOfOne) {
  const std::unique_ptr<Communicator> comm = make_single_comm();
  EXPECT_EQ(comm->size(), 1);
  for (const testing::CommunicatorCase& contract : testing::communicator_cases()) contract.body(*comm);
}

}  // namespace
}  // namespace qat::dist
