#include "src/checkpoint/background_save.h"

#include <span>
#include <utility>
#include <vector>

#include "kernels/common/error.h"
#include "kernels/common/signals_blocked.h"

namespace qat {
BackgroundSave::BackgroundSave(std::unique_ptr<SaveWork> work, dist::Communicator& comm)
    : work_(std::move(work)), comm_(comm) {
  const SignalsBlocked blocked;
  thread_ = std::thread([this] { run(); });
}

BackgroundSave::~BackgroundSave() {
  {
    const std::lock_guard lock(mutex_);
    given_up_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void BackgroundSave::run() {
  work_->write(*this);
  values_read();  // also where it failed: nothing is read any more
  {
    std::unique_lock lock(mutex_);
    stage_ = Stage::kWritten;
    changed_.notify_all();
    changed_.wait(lock, [this] { return stage_ == Stage::kCommitting || given_up_; });
    if (stage_ != Stage::kCommitting) return;
  }
  (void)work_->commit(*this);  // a failure is thrown by conclude()
  reach(Stage::kCommitted);
}

void BackgroundSave::reach(Stage stage) {
  const std::lock_guard lock(mutex_);
  stage_ = stage;
  changed_.notify_all();
}

void BackgroundSave::beat() {
  const std::lock_guard lock(mutex_);
  if (given_up_) throw Error(ErrorKind::kCheckpoint, "the save was given up");
  ++beats_;
  changed_.notify_all();
}

void BackgroundSave::values_read() noexcept {
  const std::lock_guard lock(mutex_);
  read_ = true;
  changed_.notify_all();
}

bool BackgroundSave::has_read() const {
  const std::lock_guard lock(mutex_);
  return read_;
}

bool BackgroundSave::has_ended() const { return stage_ == (collected_ ? Stage::kCommitted : Stage::kWritten); }

void BackgroundSave::wait_for(const std::function<bool()>& reached) {
  std::unique_lock lock(mutex_);
  while (!reached()) {
    const std::uint64_t seen = beats_;
    changed_.wait(lock, [&] { return reached() || beats_ != seen; });
    lock.unlock();
    comm_.beat();  // only here: a thread that writes does not answer for one that hangs in training
    lock.lock();
  }
}

void BackgroundSave::wait_until_read() {
  wait_for([this] { return read_; });
}

void BackgroundSave::begin_commit() {
  work_->collect();
  collected_ = true;
  reach(Stage::kCommitting);
}

bool BackgroundSave::advance() {
  std::vector<std::int64_t> ended(1);
  {
    const std::lock_guard lock(mutex_);
    ended[0] = has_ended() ? 1 : 0;
  }
  comm_.all_reduce(view(std::span(ended)), dist::ReduceOp::kMin);
  if (ended[0] == 0) return false;
  if (collected_) return true;
  begin_commit();
  return false;
}

std::filesystem::path BackgroundSave::finish() {
  const auto wait = [this] { wait_for([this] { return has_ended(); }); };
  wait();
  if (!collected_) {
    begin_commit();
    wait();
  }
  return work_->conclude();
}

}  // namespace qat
