#include "src/train/work_timer.h"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace qat {

WorkTimer::WorkTimer(c10::Device device) : device_(device), since_(Clock::now()) {
  if (!device.is_cuda()) return;
  begin_.emplace(device.type(), c10::EventFlag::BACKEND_DEFAULT);  // PYTORCH_DEFAULT's keep no time
  end_.emplace(device.type(), c10::EventFlag::BACKEND_DEFAULT);
}

void WorkTimer::start() {
  worked_ = {};
  resume();
  if (begin_) begin_->record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
}

void WorkTimer::pause() { worked_ += Clock::now() - since_; }

void WorkTimer::resume() { since_ = Clock::now(); }

void WorkTimer::stop() {
  pause();
  if (end_) end_->record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
}

double WorkTimer::seconds() const {
  if (begin_) return begin_->elapsedTime(*end_) * 1e-3;
  return std::chrono::duration<double>(worked_).count();
}

}  // namespace qat
