// Whether a run is to stop before its end: asked of every rank, answered the same on all.
//
// A request reaches one rank or all of them, at any time: a signal, or a disk that no longer takes the run's records.
// Ranks may only act on it together, at places that all of them pass: between micro-batches, passes of an evaluation,
// batches of a calibration. Asking costs a small all-reduce, so that only about one place a second asks; which ones is
// agreed with the answer before.
#pragma once

#include <cstdint>
#include <functional>

#include "dist/comm/communicator.h"

namespace qat::dist {

// Reasons other than signals, above every signal's number: the largest reason that a rank has is the answer.
enum StopReason : int { kNotStopping = 0, kRecordsFailed = 1000 };

// How many units of one kind of work lie between two questions. The same on every rank.
class Pace {
 public:
  explicit Pace(double seconds = 1.0) : seconds_(seconds) {}
  std::int64_t units() const noexcept { return units_; }
  // So many units took the slowest rank so long.
  void learn(std::int64_t units, double seconds);

 private:
  double seconds_;
  std::int64_t units_ = 1;  // until something is known, every place asks
};

class StopPoll {
 public:
  using Clock = std::function<double()>;  // seconds of a clock that never goes back

  // requested: what this rank has been asked so far, 0 for nothing; null: never. comm must outlive this.
  explicit StopPoll(Communicator& comm, std::function<int()> requested = {}, Clock clock = {});

  // This rank's own request: for exchanges that carry it along with something else.
  int requested() const { return requested_ ? requested_() : kNotStopping; }

  // Asks all ranks. Collective.
  int ask();
  // Asks, after `units` units of work since start() or the question before, and sets the pace. Collective.
  int ask(Pace& pace, std::int64_t units);
  // Work that is paced begins now.
  void start();

 private:
  double now() const;

  Communicator& comm_;
  std::function<int()> requested_;
  Clock clock_;
  double since_ = 0.0;
};

}  // namespace qat::dist
