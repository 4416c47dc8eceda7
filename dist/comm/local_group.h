// The memory that the ranks of one local group share. Internal to local_comm.cc.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "dist/comm/communicator.h"
#include "kernels/common/view.h"

namespace qat::dist {

// What one rank brings to a collective. The first part must be the same on all ranks.
struct LocalCall {
  std::string_view name = "none";
  std::int64_t elems = 0;
  DType dtype = DType::kUInt8;
  int argument = 0;  // the operation, or the root

  const void* in = nullptr;  // rank's own from here on
  void* out = nullptr;
  int color = 0;
  int key = 0;

  bool matches(const LocalCall& other) const noexcept {
    return name == other.name && elems == other.elems && dtype == other.dtype && argument == other.argument;
  }
};

class LocalGroup {
 public:
  explicit LocalGroup(int size);

  int size() const noexcept { return static_cast<int>(calls_.size()); }

  // A collective is enter(), any reading of the peers' buffers through call(), leave().
  // enter: returns when all ranks have entered with matching calls; throws when one has left the group (or the group
  // was aborted) before that, and on every rank alike when the calls do not match.
  void enter(int rank, const LocalCall& call);
  // leave: returns, or throws, only when no peer can be reading this rank's buffers any more.
  void leave(int rank);
  // Between enter and leave only.
  const LocalCall& call(int rank) const { return calls_[static_cast<std::size_t>(rank)]; }
  // Between enter and leave of a split: the group of that color, made by whoever asks first.
  std::shared_ptr<LocalGroup> child(int color, int size);

  void send(int source, int destination, int tag, std::vector<std::byte> message);
  std::vector<std::byte> receive(int rank, int source, int tag);

  void depart(int rank);
  void abort(const std::string& reason);

 private:
  // One rendezvous of all ranks; a collective passes two. `generation` counts how often it was completed.
  struct Gate {
    int arrived = 0;
    std::uint64_t generation = 0;
  };
  void require_usable(int rank) const;          // neither aborted nor confused by calls that did not match
  void require_peer(int rank, int peer) const;  // `peer` is still there
  void require_all(int rank) const;             // both, and every peer
  void open(Gate& gate);
  std::string mismatch() const;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<LocalCall> calls_;
  Gate entry_;
  Gate exit_;
  std::vector<bool> departed_;
  int departures_ = 0;
  int first_departed_ = -1;
  std::string aborted_;   // reason; empty: not aborted
  std::string mismatch_;  // the calls of the ranks, once they differed; then the group is of no more use
  std::map<int, std::shared_ptr<LocalGroup>> children_;
  std::map<std::tuple<int, int, int>, std::deque<std::vector<std::byte>>> mail_;  // (source, destination, tag)
};

}  // namespace qat::dist
