// The role of every other rank's watchdog: reports to rank 0's, does what it says, and sees to the end itself where
// rank 0's is lost. Internal to dist/watch; everything on the watchdog's thread.
#pragma once

#include <poll.h>

#include <optional>
#include <string>
#include <vector>

#include "dist/watch/watch_core.h"

namespace qat::dist {

class Client {
 public:
  Client(WatchCore& core, Socket listener);

  // As the hub's.
  void add_polls(std::vector<pollfd>& polls);
  void serve(const std::vector<pollfd>& polls);
  void tick();
  void advance();
  bool in_haste() const { return mode_ != Mode::kUp && mode_ != Mode::kAlone; }

  void own_failure(const Mailbox::Failure& failure);
  void own_said();
  void leave();

  // Set once this rank has to bring the run to its end itself: a hub for that verdict takes over, with the listener
  // (invalid where this rank is alone).
  const std::optional<Verdict>& takes_over() const { return takes_over_; }
  Socket take_listener() { return std::move(listener_); }

 private:
  enum class Mode : std::uint8_t {
    kConnect,  // to rank 0's hub
    kUp,       // reports to it
    kAlone,    // no way to it, or it has left in good order: watches this process alone
    kSearch,   // it is lost: tries the ranks below this one
    kFollow,   // the end: by rank 0's hub, or by one of them that stands in
    kEnd,      // exits once the ranks that cannot do so themselves are gone
    kLeave     // a good end
  };

  // Another rank's listener: one way to it after the other, until it welcomes this rank.
  void dial(int rank);
  void try_way();
  void serve_dialing();
  bool is_dialing();
  void keep_dialing();
  void hang_up();

  void serve_connection();
  void handle(const Frame& frame);
  void beat();
  void lose_hub(Fault fault);
  void search_on();
  void be_alone(const std::string& warning);
  void obey_end(const EndOrder& order);

  WatchCore& core_;
  Socket listener_;
  Mode mode_ = Mode::kConnect;
  // Dialing.
  int callee_ = 0;
  std::vector<std::string> ways_;
  std::size_t way_ = 0;
  Socket connecting_;
  double way_deadline_ = 0.0;  // steady
  double pause_until_ = 0.0;   // steady
  int last_error_ = 0;
  // Connected.
  std::optional<Connection> connection_;
  bool closed_ = false;
  bool welcome_ = false;
  std::optional<std::size_t> poll_index_;
  double heard_ = 0.0;  // RunClock
  double hub_limit_;
  double deadline_ = 0.0;      // steady, of the mode
  bool stacks_asked_ = false;  // somebody waits for kStacksKept
  EndOrder order_;             // kEnd
  std::optional<Verdict> lost_;
  std::optional<Verdict> takes_over_;
  bool failing_ = false;  // the working thread waits for an answer
};

}  // namespace qat::dist
