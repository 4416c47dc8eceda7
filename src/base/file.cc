#include "src/base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <system_error>
#include <utility>

namespace qat {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(ErrorKind kind, std::string_view what, const fs::path& path, int code) {
  throw Error(kind, fmt::format("cannot {} {}: {}", what, path.string(), std::generic_category().message(code)));
}

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

// Removes a file on the way out, unless told to keep it.
class RemoveOnExit {
 public:
  explicit RemoveOnExit(const fs::path& path) : path_(path) {}
  RemoveOnExit(const RemoveOnExit&) = delete;
  RemoveOnExit& operator=(const RemoveOnExit&) = delete;
  ~RemoveOnExit() {
    if (armed_) ::unlink(path_.c_str());
  }
  void keep() noexcept { armed_ = false; }

 private:
  const fs::path& path_;
  bool armed_ = true;
};

// A new file of a name that nobody else uses, beside `path`. Unlike mkstemp, it has the permissions the umask leaves.
std::pair<FileDescriptor, fs::path> new_file_beside(const fs::path& path, ErrorKind kind) {
  for (int attempt = 0;; ++attempt) {
    fs::path name = path;
    name += fmt::format(".tmp-{}-{}", ::getpid(), attempt);
    FileDescriptor fd(::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (fd.valid()) return {std::move(fd), std::move(name)};
    if (errno != EEXIST || attempt > 100) fail(kind, "write", name, errno);
  }
}

void sync_folder(const fs::path& dir, ErrorKind kind) {
  FileDescriptor fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Some network file systems cannot sync a folder (EINVAL); they make renames durable themselves.
  if (!fd.valid() || (::fsync(fd.get()) != 0 && errno != EINVAL)) fail(kind, "sync the folder", dir, errno);
}

// What stands in the way of making `dir`, in words; empty if nothing is seen.
std::string obstacle(const fs::path& dir) {
  fs::path existing = fs::absolute(dir);
  std::error_code ignored;
  while (!fs::exists(existing, ignored) && existing.has_parent_path() && existing != existing.root_path()) {
    if (fs::is_symlink(existing, ignored)) return existing.string() + " is a link to something that does not exist";
    existing = existing.parent_path();
  }
  if (!fs::is_directory(existing, ignored)) return existing.string() + " is not a folder";
  if (::faccessat(AT_FDCWD, existing.c_str(), W_OK | X_OK, AT_EACCESS) == 0) return "";
  if (errno == EROFS) return existing.string() + " is on a read-only file system";
  return fmt::format("{} is not writable for user {}", existing.string(), ::geteuid());
}

}  // namespace

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

FileDescriptor::~FileDescriptor() { close(); }

bool FileDescriptor::close() noexcept {
  const int fd = std::exchange(fd_, -1);
  return fd < 0 || ::close(fd) == 0;
}

bool write_all(int fd, std::string_view bytes) noexcept {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

void write_within(int fd, std::string_view bytes, double seconds) noexcept {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1e3));
  while (!bytes.empty() && Clock::now() < end) {
    pollfd ready{.fd = fd, .events = POLLOUT, .revents = 0};
    if (::poll(&ready, 1, /*milliseconds=*/100) <= 0) continue;
    // A pipe that poll() calls writable takes this much without blocking.
    const ssize_t written = ::write(fd, bytes.data(), std::min<std::size_t>(bytes.size(), PIPE_BUF));
    if (written < 0 && errno != EINTR && errno != EAGAIN) return;
    if (written > 0) bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

std::string read_file(const fs::path& path, ErrorKind kind) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) fail(kind, "read", path, errno);
  std::string content;
  struct stat status {};
  // The size is a hint only: it is 0 for files such as /proc/cpuinfo, and others may be writing.
  if (::fstat(fd.get(), &status) == 0 && status.st_size > 0) content.reserve(static_cast<std::size_t>(status.st_size));
  char buffer[1 << 16];
  for (;;) {
    const ssize_t count = ::read(fd.get(), buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(kind, "read", path, errno);
    if (count == 0) return content;
    content.append(buffer, static_cast<std::size_t>(count));
  }
}

void write_file_atomic(const fs::path& path, std::string_view bytes, ErrorKind kind) {
  auto [fd, fresh] = new_file_beside(path, kind);
  RemoveOnExit remove(fresh);
  struct stat old {};
  if (::stat(path.c_str(), &old) == 0 && ::fchmod(fd.get(), old.st_mode & 07777) != 0)
    fail(kind, "write", fresh, errno);
  if (!write_all(fd.get(), bytes) || ::fsync(fd.get()) != 0 || !fd.close())
    fail(kind, fmt::format("write {} bytes to", bytes.size()), fresh, errno);
  if (::rename(fresh.c_str(), path.c_str()) != 0) fail(kind, "replace", path, errno);
  remove.keep();
  sync_folder(folder_of(path), kind);
}

bool replace_file(const fs::path& path, std::string_view bytes) noexcept {
  try {
    fs::path draft = path;
    draft += ".tmp";
    FileDescriptor fd(::open(draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    return fd.valid() && write_all(fd.get(), bytes) && fd.close() && ::rename(draft.c_str(), path.c_str()) == 0;
  } catch (const std::bad_alloc&) {
    errno = ENOMEM;
    return false;
  }
}

void create_directories_checked(const fs::path& dir, std::string_view key) {
  const auto refuse = [&](const std::string& reason) {
    throw Error(ErrorKind::kConfig,
                fmt::format("{} is \"{}\", a folder that cannot be made or written to: {}", key, dir.string(), reason));
  };
  if (dir.empty()) refuse("the name is empty");
  std::error_code code;
  fs::create_directories(dir, code);
  if (code || !fs::is_directory(dir)) {
    const std::string seen = obstacle(dir);
    refuse(seen.empty() ? code.message() : seen);
  }
  // Permissions, access lists, quotas and read-only mounts all show in the attempt, and nowhere else reliably.
  const fs::path probe = dir / fmt::format(".write-test-{}", ::getpid());
  const FileDescriptor fd(::open(probe.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  const int error = errno;
  if (!fd.valid()) {
    const std::string seen = obstacle(dir);
    refuse(seen.empty() ? std::generic_category().message(error) : seen);
  }
  ::unlink(probe.c_str());
}

AppendFile::AppendFile(fs::path path)
    : path_(std::move(path)), fd_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  if (!fd_.valid()) fail(ErrorKind::kConfig, "append to", path_, errno);
}

bool AppendFile::try_append(std::string_view line) noexcept {
  try {
    std::string text;
    text.reserve(line.size() + 1);
    text.append(line).push_back('\n');
    return write_all(fd_.get(), text);
  } catch (const std::bad_alloc&) {
    errno = ENOMEM;
    return false;
  }
}

void AppendFile::append(std::string_view line) {
  if (!try_append(line)) fail(ErrorKind::kConfig, "append to", path_, errno);
}

}  // namespace qat
