// One job per run folder: a lock file that says who has it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace qat {

// Who holds a lock. The start time of the process tells it from a later one that was given the same id.
struct LockHolder {
  std::string host;
  std::int64_t pid = 0;
  std::int64_t process_start = 0;  // clock ticks after the machine's boot; 0: unknown
  std::string time;                // when the lock was taken, UTC
  std::string job;                 // batch job id; empty: none
  std::int64_t job_restart = 0;    // how often the batch system had requeued that job
};

// Holds `dir`/run.lock as long as it lives; one process of a job (rank 0) takes it. Linking a finished file into place
// is atomic on local and network file systems, so of two jobs that start at once one gets it.
class RunLock {
 public:
  // Throws Error(kConfig) that names the holder if another process has the lock. A lock is taken over if a process of
  // this host left it behind (it is gone, a zombie, or its number is another's), or an earlier start of the same batch
  // job, which has been requeued since. Any other of another host cannot be judged: the message says which file to
  // delete.
  explicit RunLock(const std::filesystem::path& dir, const std::string& job = "", std::int64_t job_restart = 0);
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;
  ~RunLock();

  // The dead holder whose lock was taken over, for a log line; empty host: there was none.
  const LockHolder& replaced() const noexcept { return replaced_; }
  const std::filesystem::path& path() const noexcept { return path_; }
  const std::string& content() const noexcept { return content_; }

 private:
  std::filesystem::path path_;
  std::string content_;
  LockHolder replaced_;
};

// Whom a RunLock of these arguments would be refused for, as messages name them: "process 7 on q1, since ...". Nothing:
// it could be taken now. Throws as RunLock does for a file that is no lock.
std::optional<std::string> run_lock_holder(const std::filesystem::path& dir, const std::string& job = "",
                                           std::int64_t job_restart = 0);

// What the destructor does, for a process that ends without it: removes the lock if it still is this one. Any thread.
void release_run_lock(const std::filesystem::path& path, const std::string& content) noexcept;

}  // namespace qat
