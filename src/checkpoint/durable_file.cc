#include "src/checkpoint/durable_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstdio>
#include <limits>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "kernels/common/error.h"

namespace qat {
namespace {

constexpr std::size_t kReadBytes = 4 << 20;
constexpr off64_t kSyncBytes = 32 << 20;

[[noreturn]] void fail_errno(const char* verb, const std::filesystem::path& path) {
  const int code = errno;
  throw Error(ErrorKind::kCheckpoint,
              fmt::format("cannot {} {}: {}", verb, path.string(), std::generic_category().message(code)));
}

class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (fd_ < 0) fail_errno("open", path);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { (void)::close(fd_); }
  int get() const noexcept { return fd_; }

 private:
  int fd_;
};

// Bytes read, fewer than asked for only at the end of the file.
std::size_t read_some(int fd, char* out, std::size_t bytes, const std::filesystem::path& path) {
  std::size_t done = 0;
  while (done < bytes) {
    const ssize_t got = ::read(fd, out + done, bytes - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno("read", path);
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return done;
}

}  // namespace

std::uint64_t hash_file(const std::filesystem::path& path, const std::function<void()>& on_block) {
  const Descriptor file(path, O_RDONLY);
  (void)::posix_fadvise(file.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), XXH3_freeState);
  QAT_CHECK(state != nullptr && XXH3_64bits_reset(state.get()) == XXH_OK, "XXH3 has no state");
  std::vector<char> buffer(kReadBytes);
  for (;;) {
    const std::size_t got = read_some(file.get(), buffer.data(), buffer.size(), path);
    (void)XXH3_64bits_update(state.get(), buffer.data(), got);
    if (on_block) on_block();
    if (got < buffer.size()) return XXH3_64bits_digest(state.get());
  }
}

void start_writeback(const std::filesystem::path& path) noexcept {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  (void)::sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
  (void)::close(fd);
}

void sync_to_disk(const std::filesystem::path& path) {
  const Descriptor file(path, O_RDONLY);
  if (::fsync(file.get()) != 0) fail_errno("flush to disk", path);
}

void sync_in_slices(const std::filesystem::path& path, const std::function<void()>& on_slice) {
  constexpr unsigned kWriteAndWait = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  const Descriptor file(path, O_RDONLY);
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) fail_errno("look at", path);
  for (off64_t first = 0; first < info.st_size; first += kSyncBytes) {
    // An error that this is told is told once: the fsync below would not hear of it. Some file systems lack the call.
    if (::sync_file_range(file.get(), first, kSyncBytes, kWriteAndWait) != 0) {
      if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP && errno != ESPIPE)
        fail_errno("flush to disk", path);
      break;
    }
    if (on_slice) on_slice();
  }
  if (::fsync(file.get()) != 0) fail_errno("flush to disk", path);
}

void write_file_durably(const std::filesystem::path& path, std::string_view content) {
  const Descriptor file(path, O_WRONLY | O_CREAT | O_EXCL);
  for (std::size_t done = 0; done < content.size();) {
    const ssize_t put = ::write(file.get(), content.data() + done, content.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail_errno("write", path);
    done += static_cast<std::size_t>(put);
  }
  if (::fsync(file.get()) != 0) fail_errno("flush to disk", path);
}

std::string read_small_file(const std::filesystem::path& path, std::int64_t max_bytes) {
  const Descriptor file(path, O_RDONLY);
  std::string content(static_cast<std::size_t>(max_bytes) + 1, '\0');
  content.resize(read_some(file.get(), content.data(), content.size(), path));
  if (std::cmp_greater(content.size(), max_bytes)) {
    throw Error(ErrorKind::kCheckpoint,
                fmt::format("{} is larger than the {} bytes expected of it", path.string(), max_bytes));
  }
  return content;
}

std::int64_t free_bytes(const std::filesystem::path& path) noexcept {
  struct statvfs info {};
  if (::statvfs(path.c_str(), &info) != 0) return -1;
  std::int64_t bytes = 0;
  return __builtin_mul_overflow(info.f_bavail, info.f_frsize, &bytes) ? std::numeric_limits<std::int64_t>::max()
                                                                      : bytes;
}

std::filesystem::path move_into_place(const std::filesystem::path& fresh, const std::filesystem::path& target,
                                      const std::filesystem::path& aside) {
  struct stat info {};
  if (::lstat(target.c_str(), &info) != 0) {
    if (::rename(fresh.c_str(), target.c_str()) != 0) fail_errno("rename a finished checkpoint to", target);
    return {};
  }
  if (::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) return fresh;
  if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP) fail_errno("replace", target);
  if (::rename(target.c_str(), aside.c_str()) != 0) fail_errno("move aside", target);
  if (::rename(fresh.c_str(), target.c_str()) != 0) {
    const int code = errno;
    (void)::rename(aside.c_str(), target.c_str());
    errno = code;
    fail_errno("rename a finished checkpoint to", target);
  }
  return aside;
}

}  // namespace qat
