#include "dist/comm/local_comm.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <optional>
#include <thread>
#include <utility>

#include "dist/comm/buffer_checks.h"
#include "dist/comm/local_group.h"
#include "dist/comm/tree_reduce.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

std::byte* offset(void* data, std::size_t bytes) { return static_cast<std::byte*>(data) + bytes; }

void copy(void* to, const void* from, std::size_t bytes) {
  if (to != from && bytes > 0) std::memcpy(to, from, bytes);
}

class LocalComm final : public Communicator {
 public:
  LocalComm(std::shared_ptr<LocalGroup> group, int rank) : group_(std::move(group)), rank_(rank) {}
  ~LocalComm() override { group_->depart(rank_); }
  LocalComm(const LocalComm&) = delete;
  LocalComm& operator=(const LocalComm&) = delete;

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return group_->size(); }
  std::string backend() const override { return "local"; }
  void abort(const std::string& reason) { group_->abort(reason); }

  void all_reduce(BufferView data, ReduceOp op, StreamRef) override {
    require_all_reduce(data, op);
    enter({.name = "all_reduce",
           .elems = data.elems,
           .dtype = data.dtype,
           .argument = static_cast<int>(op),
           .out = data.data});
    // Every rank combines its own block of elements and writes it to all: nobody else touches that block.
    const std::int64_t begin = data.elems * rank_ / size();
    const std::int64_t end = data.elems * (rank_ + 1) / size();
    const std::size_t at = static_cast<std::size_t>(begin) * size_of(data.dtype);
    std::vector<const void*> inputs;
    for (int peer = 0; peer < size(); ++peer) inputs.push_back(offset(group_->call(peer).out, at));
    void* const own = offset(data.data, at);
    tree_reduce(op, data.dtype, inputs, own, end - begin);
    const std::size_t bytes = static_cast<std::size_t>(end - begin) * size_of(data.dtype);
    for (int peer = 0; peer < size(); ++peer) copy(offset(group_->call(peer).out, at), own, bytes);
    group_->leave(rank_);
  }

  void reduce_scatter(ConstBufferView in, BufferView out, ReduceOp op, StreamRef) override {
    require_reduce_scatter(in, out, op, size());
    enter({.name = "reduce_scatter",
           .elems = out.elems,
           .dtype = in.dtype,
           .argument = static_cast<int>(op),
           .in = in.data});
    std::vector<const void*> inputs;
    for (int peer = 0; peer < size(); ++peer) {
      inputs.push_back(static_cast<const std::byte*>(group_->call(peer).in) +
                       static_cast<std::size_t>(rank_) * out.bytes());
    }
    tree_reduce(op, in.dtype, inputs, out.data, out.elems);
    group_->leave(rank_);
  }

  void all_gather(ConstBufferView in, BufferView out, StreamRef) override {
    require_all_gather(in, out, size());
    enter({.name = "all_gather", .elems = in.elems, .dtype = in.dtype, .in = in.data});
    for (int peer = 0; peer < size(); ++peer) {
      copy(offset(out.data, static_cast<std::size_t>(peer) * in.bytes()), group_->call(peer).in, in.bytes());
    }
    group_->leave(rank_);
  }

  void broadcast(BufferView data, int root, StreamRef) override {
    require_broadcast(data, root, size());
    enter({.name = "broadcast", .elems = data.elems, .dtype = data.dtype, .argument = root, .in = data.data});
    copy(data.data, group_->call(root).in, data.bytes());
    group_->leave(rank_);
  }

  void all_to_all(ConstBufferView in, BufferView out, StreamRef) override {
    require_all_to_all(in, out, size());
    enter({.name = "all_to_all", .elems = in.elems, .dtype = in.dtype, .in = in.data});
    const std::size_t block = in.bytes() / static_cast<std::size_t>(size());
    for (int peer = 0; peer < size(); ++peer) {
      copy(offset(out.data, static_cast<std::size_t>(peer) * block),
           static_cast<const std::byte*>(group_->call(peer).in) + static_cast<std::size_t>(rank_) * block, block);
    }
    group_->leave(rank_);
  }

  // The group keeps what is sent until it is received, so nobody waits for a receiver.
  void exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives, StreamRef) override {
    require_exchange(sends, receives, size());
    for (const SendTo& message : sends) {
      std::vector<std::byte> kept(message.data.bytes());
      copy(kept.data(), message.data.data, kept.size());
      group_->send(rank_, message.destination, message.tag, std::move(kept));
    }
    for (const ReceiveFrom& message : receives) {
      const std::vector<std::byte> kept = group_->receive(rank_, message.source, message.tag);
      require_received(kept.size(), message.data.bytes(), message.source, rank_);
      copy(message.data.data, kept.data(), kept.size());
    }
  }

  void barrier() override {
    enter({.name = "barrier"});
    group_->leave(rank_);
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    QAT_CHECK(color >= 0, "colors are not negative");
    enter({.name = "split", .color = color, .key = key});
    std::vector<std::pair<int, int>> members;  // (key, rank) of the ranks of this color
    for (int peer = 0; peer < size(); ++peer) {
      if (group_->call(peer).color == color) members.emplace_back(group_->call(peer).key, peer);
    }
    std::sort(members.begin(), members.end());
    const auto self = std::find(members.begin(), members.end(), std::pair(key, rank_));
    auto part = std::make_unique<LocalComm>(group_->child(color, static_cast<int>(members.size())),
                                            static_cast<int>(self - members.begin()));
    group_->leave(rank_);
    return part;
  }

 private:
  void enter(const LocalCall& call) { group_->enter(rank_, call); }

  std::shared_ptr<LocalGroup> group_;
  int rank_;
};

// A lost peer is usually the echo of the error that made the peer leave.
bool is_echo(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    return e.kind() == ErrorKind::kCommunication;
  } catch (...) {
    return false;
  }
}

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_local_group(int size) {
  const auto group = std::make_shared<LocalGroup>(size);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int rank = 0; rank < size; ++rank) ranks.push_back(std::make_unique<LocalComm>(group, rank));
  return ranks;
}

std::unique_ptr<Communicator> make_single_comm() { return std::move(make_local_group(1).front()); }

void abort_local_group(Communicator& member, const std::string& reason) {
  auto* const local = dynamic_cast<LocalComm*>(&member);
  QAT_CHECK(local != nullptr, "only a local group can be aborted this way");
  local->abort(reason);
}

void run_local_ranks(int size, const std::function<void(Communicator&)>& body) {
  std::vector<std::unique_ptr<Communicator>> ranks = make_local_group(size);
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(size));
  {
    std::vector<std::jthread> threads;
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
      threads.emplace_back([&, rank] {
        const std::unique_ptr<Communicator> comm = std::move(ranks[rank]);
        try {
          body(*comm);
        } catch (...) {
          errors[rank] = std::current_exception();
        }
      });
    }
  }
  const std::exception_ptr* first = nullptr;
  for (const std::exception_ptr& error : errors) {
    if (error == nullptr) continue;
    if (first == nullptr || (is_echo(*first) && !is_echo(error))) first = &error;
  }
  if (first != nullptr) std::rethrow_exception(*first);
}

}  // namespace qat::dist
