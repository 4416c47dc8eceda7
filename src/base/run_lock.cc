#include "src/base/run_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <optional>
#include <system_error>
#include <vector>

#include "kernels/common/process_stat.h"
#include "src/base/clock.h"
#include "src/base/file.h"
#include "src/base/json.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

std::string host_name() {
  char name[HOST_NAME_MAX + 1] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0) return "unknown";
  return name;
}

std::int64_t process_start(std::int64_t pid) {
  const std::optional<ProcessStat> stat = process_stat(pid);
  return stat ? stat->start : 0;
}

// A process of this host that has ended, even if its parent has not taken notice yet, or whose id now belongs to
// another.
bool is_dead(const LockHolder& holder) {
  if (holder.pid <= 0) return true;
  if (::kill(static_cast<pid_t>(holder.pid), 0) != 0 && errno == ESRCH) return true;
  const std::optional<ProcessStat> stat = process_stat(holder.pid);
  if (!stat) return false;  // a system without /proc
  if (stat->state == 'Z' || stat->state == 'X') return true;
  return holder.process_start != 0 && stat->start != 0 && stat->start != holder.process_start;
}

// An earlier start of the batch job that runs here now: the batch system ends one before it begins the next.
bool is_earlier_start(const LockHolder& holder, const LockHolder& me) {
  return !me.job.empty() && holder.job == me.job && holder.job_restart < me.job_restart;
}

// Whether a job of this host may take the lock over.
bool is_left_behind(const LockHolder& holder, const LockHolder& me) {
  return holder.host == me.host ? is_dead(holder) : is_earlier_start(holder, me);
}

std::string describe(const LockHolder& holder) {
  const std::string job = holder.job.empty() ? "" : fmt::format(", job {}", holder.job);
  return fmt::format("process {} on {}{}, since {}", holder.pid, holder.host, job, holder.time);
}

std::string to_text(const LockHolder& holder) {
  return to_json(Value::object({{"host", holder.host},
                                {"pid", holder.pid},
                                {"process_start", holder.process_start},
                                {"time", holder.time},
                                {"job", holder.job},
                                {"job_restart", holder.job_restart}})) +
         "\n";
}

// What the lock file says; nothing if there is no such file.
std::optional<LockHolder> read_holder(const fs::path& path) {
  std::error_code code;
  if (!fs::exists(fs::symlink_status(path, code))) return std::nullopt;
  try {
    const Value value = parse_json(read_file(path, ErrorKind::kConfig), path.string());
    const Value* restart = value.find("job_restart");  // earlier versions did not say
    return LockHolder{.host = value.at("host").as_string(),
                      .pid = value.at("pid").as_int(),
                      .process_start = value.at("process_start").as_int(),
                      .time = value.at("time").as_string(),
                      .job = value.at("job").as_string(),
                      .job_restart = restart == nullptr ? 0 : restart->as_int()};
  } catch (const Error& error) {
    if (!fs::exists(fs::symlink_status(path, code))) return std::nullopt;  // released in between
    throw Error(ErrorKind::kConfig, fmt::format("{} is no lock file of this program ({}). If no run uses that folder, "
                                                "delete the file",
                                                path.string(), error.what()));
  }
}

// Makes `path` with this content, whole from its first moment; false if it exists.
bool make_exclusively(const fs::path& path, const std::string& content) {
  fs::path draft = path;
  draft += fmt::format(".{}-{}", host_name(), ::getpid());
  write_file_atomic(draft, content);
  const bool linked = ::link(draft.c_str(), path.c_str()) == 0;
  const int error = errno;
  ::unlink(draft.c_str());
  if (linked) return true;
  if (error == EEXIST) return false;
  if (error != EPERM && error != ENOTSUP && error != ENOSYS)
    throw Error(ErrorKind::kConfig,
                fmt::format("cannot make {}: {}", path.string(), std::generic_category().message(error)));
  // A file system without hard links (FAT, some FUSE ones): exclusive creation is as good, but for a moment empty.
  const FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!fd.valid() && errno == EEXIST) return false;
  if (!fd.valid() || !write_all(fd.get(), content))
    throw Error(ErrorKind::kConfig,
                fmt::format("cannot make {}: {}", path.string(), std::generic_category().message(errno)));
  return true;
}

}  // namespace

RunLock::RunLock(const fs::path& dir, const std::string& job, std::int64_t job_restart) : path_(dir / "run.lock") {
  const LockHolder me{.host = host_name(),
                      .pid = ::getpid(),
                      .process_start = process_start(::getpid()),
                      .time = utc_time(std::chrono::system_clock::now()),
                      .job = job,
                      .job_restart = job_restart};
  content_ = to_text(me);
  // Two jobs of one host that find the same stale lock must not both replace it: the second would delete the first's.
  // Held until return. (Another host never replaces this host's lock, so a guard that sees one host is enough.)
  const FileDescriptor guard(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (guard.valid()) ::flock(guard.get(), LOCK_EX);

  while (!make_exclusively(path_, content_)) {
    const std::optional<LockHolder> holder = read_holder(path_);
    if (!holder) continue;  // released between the two calls
    const bool here = holder->host == me.host, left = is_left_behind(*holder, me);
    if (!here && !left)
      throw Error(ErrorKind::kConfig,
                  fmt::format("run.dir {} is in use by {}. Whether that still runs cannot be seen from {}: if it does "
                              "not, delete {}; else choose another run.dir",
                              dir.string(), describe(*holder), me.host, path_.string()));
    if (!left)
      throw Error(ErrorKind::kConfig, fmt::format("run.dir {} is in use by {}: wait for it, or choose another run.dir",
                                                  dir.string(), describe(*holder)));
    replaced_ = *holder;
    ::unlink(path_.c_str());
  }
}

std::optional<std::string> run_lock_holder(const fs::path& dir, const std::string& job, std::int64_t job_restart) {
  const std::optional<LockHolder> holder = read_holder(dir / "run.lock");
  const LockHolder me{.host = host_name(), .job = job, .job_restart = job_restart};
  if (!holder || is_left_behind(*holder, me)) return std::nullopt;
  return describe(*holder);
}

RunLock::~RunLock() { release_run_lock(path_, content_); }

void release_run_lock(const fs::path& path, const std::string& content) noexcept {
  try {
    // Not ours any more if somebody deleted it by hand and started another job.
    if (read_file(path, ErrorKind::kConfig) == content) ::unlink(path.c_str());
  } catch (...) {  // NOLINT(bugprone-empty-catch): without the file there is nothing to release
  }
}

}  // namespace qat
