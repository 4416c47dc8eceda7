#include "dist/watch/watchdog.h"

#include <poll.h>
#include <pthread.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "dist/watch/client.h"
#include "dist/watch/hub.h"
#include "dist/watch/thread_stacks.h"
#include "dist/watch/watch_core.h"
#include "kernels/common/signals_blocked.h"

namespace qat::dist {
class Watchdog::Thread {
 public:
  Thread(Meeting meeting, ProgressBoard& board, WatchdogOptions options)
      : options_(std::move(options)),
        listener_(std::move(meeting.listener)),
        core_(std::move(meeting), board, options_) {
    const SignalsBlocked blocked;  // inherited by the thread
    thread_ = std::thread([this] { run(); });
    pthread_setname_np(thread_.native_handle(), "watchdog");
  }
  ~Thread() {
    core_.mail.post_stop();
    thread_.join();
  }
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

  Mailbox& mail() { return core_.mail; }

 private:
  void run() {
    if (core_.directory.rank == 0) {
      if (!listener_.socket.valid() && core_.directory.size() > 1)
        core_.mail.warn("the watchdog cannot listen for the other ranks (" + listener_.error +
                        "): every rank watches itself alone");
      hub_ = std::make_unique<Hub>(core_, std::move(listener_.socket));
    } else {
      client_ = std::make_unique<Client>(core_, std::move(listener_.socket));
    }
    double next_tick = 0.0;
    while (!core_.finished()) {
      wait(hub_ ? hub_->in_haste() : client_->in_haste(), next_tick);
      core_.clock.tick(steady_seconds());
      hub_ ? hub_->serve(polls_) : client_->serve(polls_);
      if (!core_.finished() && steady_seconds() >= next_tick) {
        next_tick = steady_seconds() + core_.tick;
        core_.observe();
        hub_ ? hub_->tick() : client_->tick();
      }
      hub_ ? obey(*hub_) : obey(*client_);
      if (client_) take_over();
    }
    core_.mail.post_end();
  }

  // A client becomes the hub once rank 0's is lost and its own turn has come.
  void take_over() {
    const std::optional<Verdict> verdict = client_->takes_over();
    if (!verdict) return;
    hub_ = std::make_unique<Hub>(core_, client_->take_listener(), *verdict);
    client_.reset();
  }

  void wait(bool in_haste, double next_tick) {
    constexpr double kHaste = 0.01;
    polls_ = {{.fd = core_.mail.wake_fd(), .events = POLLIN, .revents = 0}};
    hub_ ? hub_->add_polls(polls_) : client_->add_polls(polls_);
    const double until_tick = std::max(0.0, next_tick - steady_seconds());
    const double seconds = in_haste ? std::min(kHaste, until_tick) : until_tick;
    if (::poll(polls_.data(), polls_.size(), static_cast<int>(seconds * 1e3) + 1) > 0 && polls_[0].revents != 0)
      core_.mail.clear_wake();
  }

  // The working thread's wishes, and the role's own next move.
  template <typename Role>
  void obey(Role& role) {
    if (core_.finished()) return;
    if (const auto failure = core_.mail.take_failure()) role.own_failure(*failure);
    if (core_.mail.take_said()) role.own_said();
    if (core_.mail.stop_requested()) role.leave();
    if (!core_.finished()) role.advance();
  }

  const WatchdogOptions options_;
  Listener listener_;
  WatchCore core_;
  std::unique_ptr<Client> client_;  // one of the two
  std::unique_ptr<Hub> hub_;
  std::vector<pollfd> polls_;
  std::thread thread_;
};

Watchdog::Watchdog(Communicator& comm, ProgressBoard& board, WatchdogOptions options) {
  prepare_thread_stacks();
  Meeting meeting = meet(comm, options.host);
  thread_ = std::make_unique<Thread>(std::move(meeting), board, std::move(options));
}

Watchdog::~Watchdog() = default;

bool Watchdog::announce_failure(int exit_code, const std::string& message) {
  constexpr double kAnswerWithin = 3.0;  // a hub that says nothing is lost, and so is whoever else might speak
  constexpr std::size_t kLongest = 16384;
  thread_->mail().post_failure({.exit_code = exit_code, .message = message.substr(0, kLongest)});
  return thread_->mail().wait_for_answer(kAnswerWithin).value_or(true);
}

void Watchdog::end_with_failure() {
  constexpr double kEndWithin = 8.0;
  thread_->mail().post_said();
  thread_->mail().wait_for_end(kEndWithin);
}

std::vector<std::string> Watchdog::take_warnings() { return thread_->mail().take_warnings(); }

}  // namespace qat::dist
