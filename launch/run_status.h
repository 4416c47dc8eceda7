// What a run says of itself beside its output: run.dir/status.json, its last message, and its stacks where it hangs.
#pragma once

#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "dist/watch/watchdog.h"
#include "launch/memory_check.h"
#include "launch/world.h"
#include "src/base/run_lock.h"
#include "src/report/failure_text.h"
#include "src/train/watchdog_config.h"

namespace qat::launch {

// Made before the world and gone after it, since the world's watchdog calls it. Rank 0's writes the file; any rank's
// makes the message, if that rank speaks.
class RunStatus {
 public:
  // Once, when the world is there.
  void attach(World& world);
  // From here on the folder is this run's: status.json and stacks go there. lock: rank 0's, null elsewhere; it is
  // removed where the watchdog ends the process. Until the run has taken up or written a checkpoint, it stands where
  // the newest one in the folder does.
  void open(const std::filesystem::path& run_dir, const RunLock* lock);

  // Starts the world's watchdog, unless it is off. Collective.
  void start_watchdog(World& world, const WatchdogConfig& config);

  // Rank 0 notes how the run ended; without an open folder, nothing.
  void finish(const std::string& state, int exit_code = 0, const std::string& what = "");
  // Rank 0, after the end: report.html and report.md of what the folder holds. A run has ended as it has without them,
  // too: what is in their way is a warning.
  void write_report() const;
  // Where the run stands now; at most once a second.
  void update(const dist::BoardView& view);

  // The last message of a run that fails on this rank.
  FailureReport failure_report(int exit_code, const std::string& what) const;
  bool has_trained() const { return board_ != nullptr && board_->read().steps > 0; }

  // What the run needs and has of memory; null: not looked at yet.
  void set_memory(std::unique_ptr<const MemoryOutlook> memory) { memory_ = std::move(memory); }
  const MemoryOutlook* memory() const { return memory_.get(); }

  // For a process that ends without destructors.
  void release_lock() const;

 private:
  void say_end(const dist::EndReport& report);
  void keep_stacks(const std::string& text) const;
  std::string log_file(int rank) const;
  void write(const std::string& state, const dist::BoardView& view, int exit_code, const std::string& what);
  void look_for_checkpoint();
  // The newest checkpoint, whether this start or an earlier one has written it; empty: none.
  std::string newest_checkpoint() const;
  std::optional<std::int64_t> last_step(std::int64_t completed) const;
  // The same command would be refused again.
  bool is_refused(int exit_code) const;

  int rank_ = 0;
  std::string host_, job_, next_command_;
  const dist::ProgressBoard* board_ = nullptr;
  std::unique_ptr<const MemoryOutlook> memory_;
  // Set once by open(), read by any thread afterwards.
  std::atomic<bool> open_{false};
  std::filesystem::path run_dir_;
  std::string found_checkpoint_;  // rank 0: newest one when the folder was opened; empty: none
  std::int64_t found_step_ = 0;
  std::filesystem::path lock_path_;
  std::string lock_content_;
  std::mutex writing_;    // of the file
  bool ended_ = false;    // its last state is written
  double written_ = 0.0;  // steady seconds
};

}  // namespace qat::launch
