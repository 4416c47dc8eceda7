// The out-of-band watchdog: no rank of a run hangs, dies or fails without the others noticing, naming it and ending.
//
// Every process has one thread that calls neither MPI nor CUDA, so that it works while the process waits in them for
// ever. The threads talk over TCP: rank 0's is the hub, the others report to it what their boards show
// (progress_board.h) and that they live. The hub judges (verdict.h). At the end every rank keeps the stacks of its
// threads, one rank speaks, every process exits with the same code, and processes that cannot (stopped ones) are killed
// by a rank of their machine. If rank 0 is lost, the lowest rank that lives takes its place for the end.
//
// Limits are learned (limits.h). Time in which a process was suspended counts against nobody.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/watch/verdict.h"

namespace qat::dist {

// How a run ended, as the rank that speaks knows it.
struct EndReport {
  Verdict verdict;
  std::string what;        // the verdict as a sentence
  std::string host;        // of the rank concerned
  std::int64_t pid = 0;    // its process
  std::string activity;    // "step, in all_gather"; empty: not known
  std::string others;      // what the other ranks were doing
  std::int64_t steps = 0;  // completed by every rank that is known
  bool said = false;       // the failing rank has printed its message: only keep it
};

struct WatchdogOptions {
  double limit_seconds = 600.0;  // the ceiling of every limit, above 0
  std::string host;              // this rank's, for messages
  double connect_seconds = 20.0;

  // Called on the watchdog's thread; each may be empty. They must not wait for the working thread, which may hang.
  std::function<void(const EndReport&)> on_end;            // on the rank that speaks, once
  std::function<void(const std::string& text)> on_stacks;  // on every rank, at an end other than a rank's own failure
  std::function<void(const BoardView& view)> on_change;    // on rank 0: at most once a second, when there is news
  std::function<void(int exit_code)> terminate;            // empty: _exit; tests put their own in its place
};

class Watchdog {
 public:
  // Collective. The board outlives the watchdog.
  Watchdog(Communicator& comm, ProgressBoard& board, WatchdogOptions options);
  // Says farewell: from here on this rank's end is no death. Takes at most a few seconds.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // This rank fails alone. True: it is the one to print its message, and calls end_with_failure() afterwards; false:
  // another rank speaks, and it does so at once.
  bool announce_failure(int exit_code, const std::string& message);
  // Waits while the watchdog ends all processes, this one too. Returns only if that takes more than some seconds.
  void end_with_failure();

  // What the run's log should say (a rank that could not connect); each line once. Any thread.
  std::vector<std::string> take_warnings();

 private:
  class Thread;
  std::unique_ptr<Thread> thread_;
};

}  // namespace qat::dist
