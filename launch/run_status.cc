#include "launch/run_status.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <span>
#include <thread>
#include <vector>

#include "launch/command_line.h"
#include "launch/terminal.h"
#include "src/base/clock.h"
#include "src/base/file.h"
#include "src/base/log.h"
#include "src/checkpoint/catalog.h"
#include "src/report/run_report.h"
#include "src/report/status_file.h"

namespace qat::launch {
namespace {

constexpr double kWriteWithin = 2.0;  // seconds for a message on a stream that nobody may read

double steady_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void RunStatus::attach(World& world) {
  rank_ = world.rank();
  host_ = world.session().host_name();
  job_ = World::job_id();
  next_command_ = command_to_start_again(world.size());
  board_ = &world.board();
}

void RunStatus::open(const std::filesystem::path& run_dir, const RunLock* lock) {
  run_dir_ = run_dir;
  if (lock != nullptr) {
    lock_path_ = lock->path();
    lock_content_ = lock->content();
  }
  look_for_checkpoint();
  open_ = true;
  if (rank_ == 0) update(board_->read());
}

void RunStatus::look_for_checkpoint() {
  try {
    const std::vector<CheckpointInfo> found = list_checkpoints(run_dir_ / "checkpoints");
    if (found.empty()) return;
    found_checkpoint_ = found.back().folder.string();
    found_step_ = found.back().step;
  } catch (const Error&) {
    found_checkpoint_.clear();  // whoever goes on from one says what is in the way
  }
}

std::string RunStatus::newest_checkpoint() const {
  const std::string written = board_->checkpoint();
  return written.empty() && !has_trained() ? found_checkpoint_ : written;
}

std::optional<std::int64_t> RunStatus::last_step(std::int64_t completed) const {
  const std::int64_t step = completed > 0 ? completed : found_step_;
  if (step == 0) return std::nullopt;
  return step;
}

bool RunStatus::is_refused(int exit_code) const {
  return !has_trained() &&
         (exit_code == static_cast<int>(ErrorKind::kConfig) || exit_code == static_cast<int>(ErrorKind::kData) ||
          exit_code == static_cast<int>(ErrorKind::kCheckpoint));
}

void RunStatus::start_watchdog(World& world, const WatchdogConfig& config) {
  if (config.limit_seconds == 0.0) return;
  dist::WatchdogOptions options{.limit_seconds = config.limit_seconds, .host = host_};
  options.on_end = [this](const dist::EndReport& report) { say_end(report); };
  options.on_stacks = [this](const std::string& text) { keep_stacks(text); };
  options.on_change = [this](const dist::BoardView& view) { update(view); };
  world.watch(options);
}

FailureReport RunStatus::failure_report(int exit_code, const std::string& what) const {
  FailureReport report{.exit_code = exit_code, .what = what, .rank = rank_, .host = host_, .of_run = open_};
  if (board_ != nullptr) {
    report.last_step = last_step(board_->read().steps);
    report.checkpoint = newest_checkpoint();
  }
  if (!report.checkpoint.empty() && !is_refused(exit_code))
    report.next_command = fmt::format("{} to go on from the checkpoint: {}",
                                      exit_code == static_cast<int>(ErrorKind::kDiverged)
                                          ? "change the cause first, then start the same command again"
                                          : "start the same command again",
                                      next_command_);
  report.log_file = log_file(rank_);
  return report;
}

std::string RunStatus::log_file(int rank) const {
  if (!open_) return {};
  return (run_dir_ / "logs" / fmt::format("rank_{:03}.log", rank)).string();
}

// ---- on the watchdog's thread, whatever the others do

void RunStatus::say_end(const dist::EndReport& end) {
  FailureReport report = failure_report(end.verdict.exit_code, end.what);
  report.rank = end.verdict.rank;
  report.host = end.host;
  report.pid = end.pid;
  report.last_step = last_step(end.steps);
  report.doing = end.activity;
  if (!end.activity.empty() && end.verdict.seconds > 0.0)
    report.doing += fmt::format(", for {:.0f} s", end.verdict.seconds);
  report.others = end.others;
  report.next_command = fmt::format(
      "start the same command again {}: {}",
      report.checkpoint.empty() ? "(there is no checkpoint: from the first step)" : "to go on", next_command_);
  if (end.verdict.exit_code == static_cast<int>(ErrorKind::kWatchdog))
    report.next_command += "\nif nothing hangs and this is only slow, raise watchdog.limit_seconds";
  if (open_) report.log_file = fmt::format("{}/logs/rank_*.log: where every rank was", run_dir_.string());
  if (!end.said) write_within(STDERR_FILENO, to_text(report), kWriteWithin);
  if (!open_) return;
  finish("failed", end.verdict.exit_code, end.what);
  release_lock();
}

void RunStatus::release_lock() const {
  if (open_ && !lock_content_.empty()) release_run_lock(lock_path_, lock_content_);
}

void RunStatus::keep_stacks(const std::string& text) const {
  if (!open_) return;
  try {
    AppendFile file(log_file(rank_));
    file.try_append(format_log_lines(std::chrono::system_clock::now(), rank_, LogLevel::kError, text));
  } catch (const Error&) {  // no folder, no space: the end goes on without them
  }
}

void RunStatus::update(const dist::BoardView& view) {
  if (!open_) return;
  const std::unique_lock lock(writing_, std::try_to_lock);
  if (!lock.owns_lock() || ended_ || steady_now() < written_ + 1.0) return;
  write("running", view, 0, "");
}

void RunStatus::finish(const std::string& state, int exit_code, const std::string& what) {
  if (!open_) return;
  // Whoever writes is done in a moment, or hangs in the file system: then the file stays as it is.
  std::unique_lock lock(writing_, std::try_to_lock);
  for (int i = 0; i < 100 && !lock.owns_lock(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    lock.try_lock();
  }
  if (!lock.owns_lock() || ended_) return;
  ended_ = true;
  write(state, board_->read(), exit_code, what);
}

void RunStatus::write_report() const {
  if (!open_ || rank_ != 0) return;
  try {
    if (!has_records(run_dir_)) return;  // it has not come so far
    const RunHistory run = read_run(run_dir_);
    write_run_report(std::span(&run, 1), run_dir_ / "report.html");
  } catch (const std::exception& error) {
    warn(fmt::format("no report: {}; qat_dist report {} makes it", error.what(), run_dir_.string()));
  }
}

void RunStatus::write(const std::string& state, const dist::BoardView& view, int exit_code, const std::string& what) {
  written_ = steady_now();
  const bool ends_here = state == "finished" || (state == "failed" && is_refused(exit_code));
  // A disk that is full fails in a place that says so; this file is rewritten in a second anyway.
  (void)write_status(run_dir_ / "status.json", {.state = state,
                                                .last_step = last_step(view.steps),
                                                .checkpoint = newest_checkpoint(),
                                                .section = name_of(view.section),
                                                .host = host_,
                                                .pid = ::getpid(),
                                                .job = job_,
                                                .exit_code = exit_code,
                                                .what = what,
                                                .next_command = ends_here ? "" : next_command_});
}

}  // namespace qat::launch
