// How long computing has waited for something, in parts that are added up.
#pragma once

#include <c10/core/Device.h>

#include <cstddef>
#include <deque>
#include <functional>

#include "src/train/work_timer.h"

namespace qat {

class WaitTimes {
 public:
  explicit WaitTimes(c10::Device device) : device_(device) {}

  // On a CPU what the part takes; on a GPU what the current stream takes from in front of it to behind it.
  void around(const std::function<void()>& part);
  // Seconds of all parts since the last call. On a GPU, once the stream has passed them.
  double take();

 private:
  c10::Device device_;
  std::deque<WorkTimer> timers_;  // used again and again
  std::size_t used_ = 0;
};

}  // namespace qat
