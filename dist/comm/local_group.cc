#include "dist/comm/local_group.h"

#include <utility>

#include "kernels/common/error.h"

namespace qat::dist {

LocalGroup::LocalGroup(int size) : calls_(static_cast<std::size_t>(size)), departed_(static_cast<std::size_t>(size)) {
  QAT_CHECK(size >= 1, "a group has at least one rank");
}

void LocalGroup::require_usable(int rank) const {
  if (!aborted_.empty()) throw Error(ErrorKind::kCommunication, "rank " + std::to_string(rank) + ": " + aborted_);
  if (!mismatch_.empty()) throw Error(ErrorKind::kInternal, mismatch_);
}

void LocalGroup::require_peer(int rank, int peer) const {
  if (!departed_[static_cast<std::size_t>(peer)]) return;
  throw Error(ErrorKind::kCommunication, "rank " + std::to_string(rank) + " of " + std::to_string(size()) +
                                             " lost rank " + std::to_string(peer) + ": it left the group");
}

void LocalGroup::require_all(int rank) const {
  require_usable(rank);
  if (departures_ > 0) require_peer(rank, first_departed_);  // the later ones left because of it
}

std::string LocalGroup::mismatch() const {
  for (std::size_t rank = 1; rank < calls_.size(); ++rank) {
    if (calls_[rank].matches(calls_[0])) continue;
    const auto describe = [&](std::size_t r) {
      const LocalCall& call = calls_[r];
      return "rank " + std::to_string(r) + " calls " + std::string(call.name) + " (elements " +
             std::to_string(call.elems) + ", dtype " + std::to_string(static_cast<int>(call.dtype)) + ", argument " +
             std::to_string(call.argument) + ")";
    };
    return "internal error: ranks make different collective calls: " + describe(0) + ", " + describe(rank);
  }
  return {};
}

void LocalGroup::open(Gate& gate) {
  gate.arrived = 0;
  ++gate.generation;
  changed_.notify_all();
}

void LocalGroup::enter(int rank, const LocalCall& call) {
  std::unique_lock lock(mutex_);
  require_all(rank);
  calls_[static_cast<std::size_t>(rank)] = call;
  const std::uint64_t generation = entry_.generation;
  if (++entry_.arrived == size()) {
    mismatch_ = mismatch();
    open(entry_);
  }
  changed_.wait(lock, [&] { return entry_.generation != generation || departures_ > 0 || !aborted_.empty(); });
  // All have entered: a rank that leaves now is waited for in leave().
  if (entry_.generation == generation) require_all(rank);
  if (!mismatch_.empty()) throw Error(ErrorKind::kInternal, mismatch_);
}

void LocalGroup::leave(int rank) {
  std::unique_lock lock(mutex_);
  const std::uint64_t generation = exit_.generation;
  if (++exit_.arrived == size()) {
    children_.clear();
    open(exit_);
  }
  changed_.wait(lock, [&] { return exit_.generation != generation || exit_.arrived + departures_ >= size(); });
  if (exit_.generation == generation) require_all(rank);
}

std::shared_ptr<LocalGroup> LocalGroup::child(int color, int size) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<LocalGroup>& group = children_[color];
  if (group == nullptr) group = std::make_shared<LocalGroup>(size);
  return group;
}

void LocalGroup::send(int source, int destination, int tag, std::vector<std::byte> message) {
  const std::lock_guard lock(mutex_);
  require_usable(source);
  require_peer(source, destination);
  mail_[{source, destination, tag}].push_back(std::move(message));
  changed_.notify_all();
}

std::vector<std::byte> LocalGroup::receive(int rank, int source, int tag) {
  std::unique_lock lock(mutex_);
  std::deque<std::vector<std::byte>>& queue = mail_[{source, rank, tag}];
  changed_.wait(lock,
                [&] { return !queue.empty() || departed_[static_cast<std::size_t>(source)] || !aborted_.empty(); });
  if (queue.empty()) {  // what was sent before the sender left still arrives
    require_usable(rank);
    require_peer(rank, source);
  }
  std::vector<std::byte> message = std::move(queue.front());
  queue.pop_front();
  return message;
}

void LocalGroup::depart(int rank) {
  const std::lock_guard lock(mutex_);
  departed_[static_cast<std::size_t>(rank)] = true;
  if (departures_++ == 0) first_departed_ = rank;
  changed_.notify_all();
}

void LocalGroup::abort(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (aborted_.empty()) aborted_ = "the group was aborted: " + reason;
  changed_.notify_all();
}

}  // namespace qat::dist
