#include "dist/watch/watch_core.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <system_error>
#include <utility>

#include "dist/watch/thread_stacks.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

// After this the last resort ends a doomed process: longer than all the phases of an end together.
constexpr unsigned kDoomSeconds = 12;
std::atomic<int> doom_code{7};

void last_resort(int /*signal*/) { _exit(doom_code); }

// Of the system's clock: what g++ 12 makes of a steady deadline is unknown to the thread sanitizer.
std::chrono::system_clock::time_point in_seconds(double seconds) {
  return std::chrono::system_clock::now() + std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1e3));
}

double tick_of(double limit) { return std::clamp(limit / 20.0, 0.02, 0.5); }

}  // namespace

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Mailbox::Mailbox() : wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (!wake_.valid()) throw Error(ErrorKind::kCommunication, "the system gives no eventfd to the watchdog");
}

void Mailbox::wake() {
  const std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);  // full only if it is awake already
}

void Mailbox::clear_wake() {
  std::uint64_t count = 0;
  (void)!::read(wake_.get(), &count, sizeof count);
}

void Mailbox::post_stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake();
}

void Mailbox::post_failure(Failure failure) {
  {
    const std::lock_guard lock(mutex_);
    failure_ = std::move(failure);
  }
  wake();
}

void Mailbox::post_said() {
  {
    const std::lock_guard lock(mutex_);
    said_ = true;
  }
  wake();
}

std::optional<bool> Mailbox::wait_for_answer(double seconds) {
  std::unique_lock lock(mutex_);
  news_.wait_until(lock, in_seconds(seconds), [&] { return answer_.has_value(); });
  return answer_;
}

void Mailbox::wait_for_end(double seconds) {
  std::unique_lock lock(mutex_);
  news_.wait_until(lock, in_seconds(seconds), [&] { return ended_; });
}

void Mailbox::answer(bool may_say) {
  {
    const std::lock_guard lock(mutex_);
    if (!answer_) answer_ = may_say;
  }
  news_.notify_all();
}

void Mailbox::post_end() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  news_.notify_all();
}

bool Mailbox::stop_requested() {
  const std::lock_guard lock(mutex_);
  return std::exchange(stop_, false);
}

std::optional<Mailbox::Failure> Mailbox::take_failure() {
  const std::lock_guard lock(mutex_);
  return std::exchange(failure_, std::nullopt);
}

bool Mailbox::take_said() {
  const std::lock_guard lock(mutex_);
  return std::exchange(said_, false);
}

void Mailbox::warn(std::string text) {
  const std::lock_guard lock(mutex_);
  warnings_.push_back(std::move(text));
}

std::vector<std::string> Mailbox::take_warnings() {
  const std::lock_guard lock(mutex_);
  return std::exchange(warnings_, {});
}

void StackKeeper::begin(const std::string& reason, const std::function<void(const std::string&)>& keep) {
  if (std::exchange(begun_, true)) return;
  try {
    thread_ = std::thread([this, reason, keep] {
      constexpr double kSeconds = 1.5;
      if (keep) keep(reason + "\n" + describe_threads(kSeconds));
      done_ = true;
    });
  } catch (const std::system_error&) {  // no more threads: the end goes on without stacks
    done_ = true;
  }
}

StackKeeper::~StackKeeper() {
  if (thread_.joinable()) thread_.join();
}

WatchCore::WatchCore(Meeting meeting, ProgressBoard& the_board, const WatchdogOptions& the_options)
    : options(the_options),
      directory(std::move(meeting.directory)),
      board(the_board),
      rule{.ceiling = the_options.limit_seconds},
      tick(tick_of(the_options.limit_seconds)),
      clock(std::min(1.0, the_options.limit_seconds / 4.0)) {
  QAT_CHECK(the_options.limit_seconds > 0.0, "a watchdog has a limit");
}

void WatchCore::observe() {
  view_ = board.read();
  meter_.observe(view_, clock.now());
}

RankState WatchCore::own_state() const {
  return {.link = Link::kUp,
          .section = view_.section,
          .waits_for = view_.waits_for,
          .steps = view_.steps,
          .beats = view_.beats,
          .stalled = meter_.stalled(clock.now()),
          .history = meter_.history()};
}

void WatchCore::doom(int exit_code) {
  if (options.terminate) return;
  doom_code = exit_code;
  if (std::exchange(doomed_, true)) return;
  struct sigaction action = {};
  action.sa_handler = last_resort;
  sigfillset(&action.sa_mask);
  sigaction(SIGALRM, &action, nullptr);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGALRM);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  alarm(kDoomSeconds);
}

void WatchCore::terminate(int exit_code) {
  finished_ = true;
  if (!options.terminate) _exit(exit_code);
  options.terminate(exit_code);
}

std::vector<int> WatchCore::alive_here(const std::vector<int>& ranks) const {
  std::vector<int> alive;
  for (const int rank : ranks) {
    const bool other = rank >= 0 && rank < directory.size() && rank != directory.rank;
    if (other && directory.same_machine(rank) && is_alive(directory.of(rank).process)) alive.push_back(rank);
  }
  return alive;
}

void WatchCore::resume_here(const std::vector<int>& ranks) const {
  for (const int rank : alive_here(ranks)) resume_if_alive(directory.of(rank).process);
}

void WatchCore::kill_here(const std::vector<int>& ranks) const {
  for (const int rank : alive_here(ranks)) kill_if_alive(directory.of(rank).process);
}

}  // namespace qat::dist
