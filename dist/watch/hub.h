// The role of rank 0's watchdog, or of whoever stands in for it: knows all ranks, judges, and brings the run to its
// end. Internal to dist/watch; everything on the watchdog's thread.
#pragma once

#include <poll.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dist/watch/watch_core.h"

namespace qat::dist {

class Hub {
 public:
  // Rank 0's, for the whole run.
  Hub(WatchCore& core, Socket listener);
  // For the end alone, which begins now. The verdict is on rank 0, which is lost: the others will come to this
  // listener; or it is on this rank, which has no connection to the others and ends alone.
  Hub(WatchCore& core, Socket listener, const Verdict& verdict);

  // One turn of the thread: add_polls, poll(), serve, advance; tick() in between, every core.tick seconds.
  void add_polls(std::vector<pollfd>& polls);
  void serve(const std::vector<pollfd>& polls);
  void tick();
  void advance();
  bool in_haste() const { return phase_ != Phase::kWatch; }  // wants a turn every few milliseconds

  // The working thread of this process.
  void own_failure(const Mailbox::Failure& failure) { failure_of(core_.directory.rank, failure); }
  void own_said() { said_by(core_.directory.rank); }
  void leave();

 private:
  enum class Phase : std::uint8_t {
    kWatch,
    kHold,    // a rank has failed to communicate: perhaps because another died, which shows in a moment
    kSaying,  // the failing rank prints its message
    kStacks,  // every rank keeps its stacks
    kClose,   // every rank exits, this one last
    kLeave    // a good end: farewells
  };
  struct Member {
    RankState state;
    double heard = 0.0;  // RunClock
    std::unique_ptr<Connection> connection;
    std::size_t poll_index = 0;
    bool kept_stacks = false;
  };
  struct Guest {  // has not said who it is
    Connection connection;
    double deadline;  // steady
    std::size_t poll_index = 0;
    std::optional<int> rank;
    bool closed = false;
  };

  bool is_alone() const { return verdict_ && verdict_->rank == core_.directory.rank && !listener_.valid(); }
  Member& member(int rank) { return members_[static_cast<std::size_t>(rank)]; }
  std::vector<RankState> states() const;
  void accept_guests();
  void serve_guest(Guest& guest);
  void admit(Guest& guest);
  void serve_member(int rank);
  void handle(int rank, const Frame& frame);
  void close_member(int rank);
  void judge_now();
  bool has_died(int besides) const;
  void send_to_all(FrameType type, const std::string& payload);
  void failure_of(int rank, const Mailbox::Failure& failure);
  void answer(int rank, bool may_say);
  void accept_failure();
  void said_by(int rank);
  void begin_end(const Verdict& verdict);
  bool stacks_are_kept() const;
  EndReport report(const Verdict& verdict) const;
  void speak_and_close();
  bool all_closed() const;
  EndOrder end_order() const;
  void warn_of_missing();
  void tell_news();

  WatchCore& core_;
  Socket listener_;
  std::size_t listener_poll_index_ = 0;
  std::vector<Member> members_;  // by rank
  std::vector<Guest> guests_;
  Phase phase_ = Phase::kWatch;
  double deadline_ = 0.0;      // steady, of the phase
  double gather_until_ = 0.0;  // steady: a stand-in waits so long for ranks to come
  std::optional<Verdict> verdict_;
  std::optional<EndReport> report_;
  int failing_ = -1;   // rank, in kHold and kSaying
  bool said_ = false;  // it has printed its message
  bool stands_in_ = false;
  bool warned_of_missing_ = false;
  BoardView told_;
  double told_at_ = -1e9;  // steady
};

}  // namespace qat::dist
