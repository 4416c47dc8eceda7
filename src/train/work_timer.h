// How long a rank itself worked on something, not counting what it waited for others.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/Event.h>

#include <chrono>
#include <optional>

namespace qat {

// On a CPU the wall clock between start() and stop(), pauses left out. On a GPU the time between two marks in the
// current stream, which costs the host nothing: what it waited before the first mark is not in it.
class WorkTimer {
 public:
  explicit WorkTimer(c10::Device device);

  void start();
  void pause();
  void resume();
  void stop();
  // Of the last start() and stop(). On a GPU, once the stream has passed the second mark.
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;
  c10::Device device_;
  Clock::time_point since_;
  Clock::duration worked_{};
  std::optional<c10::Event> begin_, end_;  // on a GPU
};

}  // namespace qat
