#include "dist/watch/watched_comm.h"

#include <gtest/gtest.h>

#include "dist/comm/local_comm.h"
#include "tests/dist/communicator_cases.h"

namespace qat::dist {
namespace {

// Notes what the board shows while a call is under way.
class Witness final : public Communicator {
 public:
  Witness(const ProgressBoard& board, std::vector<WaitFor>& seen) : board_(board), seen_(seen) {}
  int rank() const noexcept override { return 2; }
  int size() const noexcept override { return 5; }
  std::string backend() const override { return "witness"; }
  void all_reduce(BufferView, ReduceOp, StreamRef) override { note(); }
  void reduce_scatter(ConstBufferView, BufferView, ReduceOp, StreamRef) override { note(); }
  void all_gather(ConstBufferView, BufferView, StreamRef) override { note(); }
  void broadcast(BufferView, int, StreamRef) override { note(); }
  void all_to_all(ConstBufferView, BufferView, StreamRef) override { note(); }
  void exchange(std::span<const SendTo>, std::span<const ReceiveFrom>, StreamRef) override { note(); }
  void barrier() override { note(); }
  std::unique_ptr<Communicator> split(int, int) override {
    note();
    return std::make_unique<Witness>(board_, seen_);
  }

 private:
  void note() { seen_.push_back(board_.read().waits_for); }
  const ProgressBoard& board_;
  std::vector<WaitFor>& seen_;
};

void call_everything(Communicator& comm) {
  std::vector<float> one(1), all(5), other(5);
  comm.all_reduce(view(one), ReduceOp::kSum);
  comm.reduce_scatter(view(all), view(one), ReduceOp::kSum);
  comm.all_gather(view(one), view(all));
  comm.broadcast(view(one), 0);
  comm.all_to_all(view(all), view(other));
  comm.send(view(one), 0, 1);
  comm.receive(view(one), 0, 1);
  const std::vector<SendTo> sends{{.data = view(one), .destination = 0, .tag = 1}};
  const std::vector<ReceiveFrom> receives{{.data = view(all), .source = 0, .tag = 1}};
  comm.exchange(sends, receives);
  comm.barrier();
}

TEST(WatchedComm, MarksEveryCallWhileItLastsAndInGroupsThatAreSplitOff) {
  ProgressBoard board;
  std::vector<WaitFor> seen;
  const auto comm = make_watched_comm(std::make_unique<Witness>(board, seen), board);
  EXPECT_EQ(comm->rank(), 2);
  EXPECT_EQ(comm->size(), 5);
  EXPECT_EQ(comm->backend(), "witness");
  std::vector<WaitFor> calls{WaitFor::kAllReduce, WaitFor::kReduceScatter, WaitFor::kAllGather,
                             WaitFor::kBroadcast, WaitFor::kAllToAll,      WaitFor::kSend,
                             WaitFor::kReceive,   WaitFor::kExchange,      WaitFor::kBarrier};
  call_everything(*comm);
  EXPECT_EQ(seen, calls);
  EXPECT_EQ(board.read().waits_for, WaitFor::kNothing);
  EXPECT_EQ(board.read().beats, 18U) << "a beat before and after each";
  comm->beat();
  EXPECT_EQ(board.read().beats, 19U);

  seen.clear();
  const auto part = comm->split(0, 0);
  call_everything(*part);
  calls.insert(calls.begin(), WaitFor::kSplit);
  EXPECT_EQ(seen, calls);
}

TEST(WatchedComm, KeepsTheContractOfWhatItWraps) {
  for (const testing::CommunicatorCase& contract : testing::communicator_cases()) {
    auto group = make_local_group(4);
    std::vector<std::thread> ranks;
    for (auto& member : group)
      ranks.emplace_back([&contract, comm = std::move(member)]() mutable {
        ProgressBoard board;
        const auto watched = make_watched_comm(std::move(comm), board);
        contract.body(*watched);
      });
    for (std::thread& rank : ranks) rank.join();
  }
}

}  // namespace
}  // namespace qat::dist
