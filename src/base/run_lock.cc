#include "src/base/run_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <optional>
#include <string_view>
#include <system_error>

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

// Field 22 of /proc/<pid>/stat. Fields are counted from the last ')', since a program's name may hold blanks.
std::int64_t process_start(std::int64_t pid) {
  std::string stat;
  try {
    stat = read_file(fmt::format("/proc/{}/stat", pid));
  } catch (const Error&) {
    return 0;  // gone, or a system without /proc
  }
  const std::size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::string_view rest = std::string_view(stat).substr(name_end + 1);  // " S 1 2 ...": field 3 comes first
  for (int field = 3; field <= 22; ++field) {
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    if (field < 22) rest.remove_prefix(std::min(rest.find(' '), rest.size()));
  }
  std::int64_t ticks = 0;
  for (const char c : rest) {
    if (c < '0' || c > '9') break;
    ticks = ticks * 10 + (c - '0');
  }
  return ticks;
}

// A process of this host that has ended, or whose id now belongs to another.
bool is_dead(const LockHolder& holder) {
  if (holder.pid <= 0) return true;
  if (::kill(static_cast<pid_t>(holder.pid), 0) != 0 && errno == ESRCH) return true;
  const std::int64_t start = process_start(holder.pid);
  return holder.process_start != 0 && start != 0 && start != holder.process_start;
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
                                {"job", holder.job}})) +
         "\n";
}

// What the lock file says; nothing if there is no such file.
std::optional<LockHolder> read_holder(const fs::path& path) {
  std::error_code code;
  if (!fs::exists(fs::symlink_status(path, code))) return std::nullopt;
  try {
    const Value value = parse_json(read_file(path, ErrorKind::kConfig), path.string());
    return LockHolder{value.at("host").as_string(), value.at("pid").as_int(), value.at("process_start").as_int(),
                      value.at("time").as_string(), value.at("job").as_string()};
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

RunLock::RunLock(const fs::path& dir, const std::string& job) : path_(dir / "run.lock") {
  const LockHolder me{host_name(), ::getpid(), process_start(::getpid()), utc_time(std::chrono::system_clock::now()),
                      job};
  content_ = to_text(me);
  // Two jobs of one host that find the same stale lock must not both replace it: the second would delete the first's.
  // Held until return. (Another host never replaces this host's lock, so a guard that sees one host is enough.)
  const FileDescriptor guard(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (guard.valid()) ::flock(guard.get(), LOCK_EX);

  while (!make_exclusively(path_, content_)) {
    const std::optional<LockHolder> holder = read_holder(path_);
    if (!holder) continue;  // released between the two calls
    if (holder->host != me.host)
      throw Error(ErrorKind::kConfig,
                  fmt::format("run.dir {} is in use by {}. Whether that still runs cannot be seen from {}: if it does "
                              "not, delete {}; else choose another run.dir",
                              dir.string(), describe(*holder), me.host, path_.string()));
    if (!is_dead(*holder))
      throw Error(ErrorKind::kConfig, fmt::format("run.dir {} is in use by {}: wait for it, or choose another run.dir",
                                                  dir.string(), describe(*holder)));
    replaced_ = *holder;
    ::unlink(path_.c_str());
  }
}

RunLock::~RunLock() {
  try {
    // Not ours any more if somebody deleted it by hand and started another job.
    if (read_file(path_, ErrorKind::kConfig) == content_) ::unlink(path_.c_str());
  } catch (...) {  // a destructor must not throw; without the file there is nothing to release
  }
}

}  // namespace qat
