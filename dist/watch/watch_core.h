// What the two roles of a watchdog thread, hub and client, work with. Internal to dist/watch.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dist/watch/directory.h"
#include "dist/watch/limits.h"
#include "dist/watch/watchdog.h"

namespace qat::dist {

// Seconds of a clock that never goes back; it stands while the machine sleeps, not while the process is stopped.
double steady_seconds();

// Between the working thread and the watchdog's. Never locked for longer than a copy takes.
class Mailbox {
 public:
  struct Failure {
    int exit_code = 1;
    std::string message;
  };

  Mailbox();
  int wake_fd() const { return wake_.get(); }  // readable when there is something for the watchdog
  void clear_wake();

  // The working thread.
  void post_stop();
  void post_failure(Failure failure);
  std::optional<bool> wait_for_answer(double seconds);
  void post_said();
  void wait_for_end(double seconds);
  std::vector<std::string> take_warnings();

  // The watchdog's thread. Each request once.
  bool stop_requested();
  std::optional<Failure> take_failure();
  bool take_said();
  void answer(bool may_say);
  void warn(std::string text);
  void post_end();  // the watchdog has ended, and not this process (in tests)

 private:
  void wake();

  Socket wake_;  // an eventfd
  std::mutex mutex_;
  std::condition_variable news_;  // for the working thread
  bool stop_ = false;
  bool said_ = false;
  bool ended_ = false;
  std::optional<Failure> failure_;
  std::optional<bool> answer_;
  std::vector<std::string> warnings_;
};

// Keeps the stacks of this process, on a thread of its own: should a lock that some thread holds stand in the way, the
// watchdog still ends the run.
class StackKeeper {
 public:
  StackKeeper() = default;
  StackKeeper(const StackKeeper&) = delete;
  StackKeeper& operator=(const StackKeeper&) = delete;
  ~StackKeeper();
  // Once; later calls do nothing. keep: may be empty.
  void begin(const std::string& reason, const std::function<void(const std::string&)>& keep);
  bool begun() const { return begun_; }
  bool done() const { return done_; }

 private:
  std::thread thread_;
  bool begun_ = false;
  std::atomic<bool> done_{false};
};

class WatchCore {
 public:
  WatchCore(Meeting meeting, ProgressBoard& board, const WatchdogOptions& options);

  const WatchdogOptions& options;
  const Directory directory;
  ProgressBoard& board;
  const LimitRule rule;
  const double tick;  // seconds between looks at the board
  RunClock clock;
  Mailbox mail;
  StackKeeper stacks;

  // Looks at the board.
  void observe();
  const BoardView& view() const { return view_; }
  RankState own_state() const;

  // From here on this process ends within seconds, with this code, whatever may still block.
  void doom(int exit_code);
  // Ends this process (or, in tests, this watchdog).
  void terminate(int exit_code);
  bool finished() const { return finished_; }
  void finish() { finished_ = true; }
  // Those of `ranks` that still run on this machine, this one left out.
  std::vector<int> alive_here(const std::vector<int>& ranks) const;
  // A stopped process ends by itself once it goes on, with the right exit code; others have to be killed.
  void resume_here(const std::vector<int>& ranks) const;
  void kill_here(const std::vector<int>& ranks) const;

 private:
  BoardView view_;
  GapMeter meter_;
  bool doomed_ = false;
  bool finished_ = false;
};

}  // namespace qat::dist
