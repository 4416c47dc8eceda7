#include "dist/watch/watched_comm.h"

#include <utility>

namespace qat::dist {
namespace {

class WatchedComm final : public Communicator {
 public:
  WatchedComm(std::unique_ptr<Communicator> comm, ProgressBoard& board) : comm_(std::move(comm)), board_(board) {}

  int rank() const noexcept override { return comm_->rank(); }
  int size() const noexcept override { return comm_->size(); }
  std::string backend() const override { return comm_->backend(); }

  void all_reduce(BufferView data, ReduceOp op, StreamRef stream) override {
    const WaitMark mark(&board_, WaitFor::kAllReduce);
    comm_->all_reduce(data, op, stream);
  }
  void reduce_scatter(ConstBufferView in, BufferView out, ReduceOp op, StreamRef stream) override {
    const WaitMark mark(&board_, WaitFor::kReduceScatter);
    comm_->reduce_scatter(in, out, op, stream);
  }
  void all_gather(ConstBufferView in, BufferView out, StreamRef stream) override {
    const WaitMark mark(&board_, WaitFor::kAllGather);
    comm_->all_gather(in, out, stream);
  }
  void broadcast(BufferView data, int root, StreamRef stream) override {
    const WaitMark mark(&board_, WaitFor::kBroadcast);
    comm_->broadcast(data, root, stream);
  }
  void all_to_all(ConstBufferView in, BufferView out, StreamRef stream) override {
    const WaitMark mark(&board_, WaitFor::kAllToAll);
    comm_->all_to_all(in, out, stream);
  }
  void exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives, StreamRef stream) override {
    const WaitMark mark(&board_, receives.empty() ? WaitFor::kSend
                                 : sends.empty()  ? WaitFor::kReceive
                                                  : WaitFor::kExchange);
    comm_->exchange(sends, receives, stream);
  }
  void barrier() override {
    const WaitMark mark(&board_, WaitFor::kBarrier);
    comm_->barrier();
  }
  std::unique_ptr<Communicator> split(int color, int key) override {
    const WaitMark mark(&board_, WaitFor::kSplit);
    return std::make_unique<WatchedComm>(comm_->split(color, key), board_);
  }
  void beat() noexcept override { board_.beat(); }

 private:
  std::unique_ptr<Communicator> comm_;
  ProgressBoard& board_;
};

}  // namespace

std::unique_ptr<Communicator> make_watched_comm(std::unique_ptr<Communicator> comm, ProgressBoard& board) {
  return std::make_unique<WatchedComm>(std::move(comm), board);
}

}  // namespace qat::dist
