#include "src/train/wait_times.h"

namespace qat {

void WaitTimes::around(const std::function<void()>& part) {
  if (used_ == timers_.size()) timers_.emplace_back(device_);
  WorkTimer& timer = timers_[used_++];
  timer.start();
  part();
  timer.stop();
}

double WaitTimes::take() {
  double seconds = 0.0;
  for (std::size_t i = 0; i < used_; ++i) seconds += timers_[i].seconds();
  used_ = 0;
  return seconds;
}

}  // namespace qat
