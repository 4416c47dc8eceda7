#include "src/data/token_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "kernels/common/error.h"

namespace qat {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are read as they lie in memory");

constexpr std::int64_t kTokenBytes = sizeof(std::uint16_t);
constexpr std::size_t kBufferTokens = std::size_t{1} << 18;

[[noreturn]] void fail_file(const std::string& path, const std::string& what) {
  throw Error(ErrorKind::kData, fmt::format("token file {}: {}", path, what));
}

[[noreturn]] void fail_at(const std::string& path, std::int64_t offset, const std::string& expected,
                          const std::string& found) {
  fail_file(path, fmt::format("at byte {}: expected {}, found {}", offset, expected, found));
}

// The token count of a file of `bytes` bytes that starts with `header`.
std::int64_t checked_count(const std::string& path, const std::array<std::int32_t, 3>& header, std::int64_t bytes) {
  if (header[0] != kTokenFileMagic) {
    fail_at(path, 0, fmt::format("the magic number {} of a token shard", kTokenFileMagic),
            fmt::format("{} (`qat_dist tokenize` makes token shards of text)", header[0]));
  }
  if (header[1] != kTokenFileVersion) {
    fail_at(path, 4, fmt::format("version {} (16-bit tokens)", kTokenFileVersion), std::to_string(header[1]));
  }
  const std::int64_t count = header[2];
  if (count <= 0) fail_at(path, 8, "a token count of at least 1", std::to_string(count));
  const std::int64_t expected = kTokenFileHeaderBytes + count * kTokenBytes;
  if (bytes < expected) {
    fail_at(path, bytes, fmt::format("{} bytes in all, for the {} tokens that the header counts", expected, count),
            fmt::format("the end of the file ({} bytes missing: is the copy complete?)", expected - bytes));
  }
  if (bytes > expected) {
    fail_at(path, expected, fmt::format("the end of the file, after the {} tokens that the header counts", count),
            fmt::format("{} more bytes", bytes - expected));
  }
  return count;
}

// Every shard stays open while a run reads it, and there may be more of them than the files that a process may have
// open by default; the system often allows more to one that asks.
bool allow_more_open_files() {
  ::rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return false;
  limit.rlim_cur = limit.rlim_max;
  return ::setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

FileDescriptor open_shard(const std::string& path) {
  const auto open = [&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); };  // a pipe must not block
  FileDescriptor fd(open());
  if (!fd.valid() && errno == EMFILE && allow_more_open_files()) fd = FileDescriptor(open());
  if (!fd.valid())
    fail_file(path, fmt::format("cannot be opened: {}{}", std::strerror(errno),
                                errno == EMFILE ? " (`ulimit -n` allows more, or use larger shards)" : ""));
  return fd;
}

}  // namespace

TokenFile::TokenFile(std::string path) : path_(std::move(path)), fd_(open_shard(path_)) {
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0 || !S_ISREG(status.st_mode))
    fail_file(path_, S_ISDIR(status.st_mode)
                         ? "is not a regular file but a folder: name what is in it, such as FOLDER/*.bin"
                         : "is not a regular file");
  stamp_ = stamp_now();
  known_ns_ = stamp_.changed_ns;
  if (stamp_.bytes < kTokenFileHeaderBytes) {
    fail_at(path_, stamp_.bytes, fmt::format("a header of {} bytes", kTokenFileHeaderBytes), "the end of the file");
  }
  std::array<std::int32_t, 3> header;
  read_bytes(header.data(), sizeof header, 0);
  tokens_ = checked_count(path_, header, stamp_.bytes);
}

FileStamp TokenFile::stamp_now() const {
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0) fail_file(path_, fmt::format("cannot be read: {}", std::strerror(errno)));
  return {.device = status.st_dev,
          .inode = status.st_ino,
          .bytes = status.st_size,
          .changed_ns = std::int64_t{status.st_ctim.tv_sec} * 1'000'000'000 + status.st_ctim.tv_nsec};
}

void TokenFile::read(std::int64_t offset, std::span<std::uint16_t> out) const {
  const auto count = static_cast<std::int64_t>(out.size());
  QAT_CHECK(offset >= 0 && offset + count <= tokens_, "tokens are read from inside the file");
  read_bytes(out.data(), count * kTokenBytes, kTokenFileHeaderBytes + offset * kTokenBytes);
  check_unchanged();
}

TokenContent TokenFile::scan(int vocab_size) const {
  TokenContent content = scan_bytes(vocab_size);
  if (stamp_now() != stamp_) fail_changed("it was written to while it was being read");
  return content;
}

TokenContent TokenFile::scan_bytes(int vocab_size) const {
  const auto block = [&](std::int64_t offset, std::span<std::uint16_t> out) {
    read_bytes(out.data(), static_cast<std::int64_t>(out.size_bytes()), kTokenFileHeaderBytes + offset * kTokenBytes);
  };
  return read_content(tokens_, block, vocab_size, path_, kTokenFileHeaderBytes);
}

void TokenFile::read_bytes(void* to, std::int64_t bytes, std::int64_t offset) const {
  auto* at = static_cast<std::byte*>(to);
  while (bytes > 0) {
    const ::ssize_t got = ::pread(fd_.get(), at, static_cast<std::size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_file(path_, fmt::format("cannot be read at byte {}: {}", offset, std::strerror(errno)));
    if (got == 0) fail_size(stamp_now().bytes);
    at += got;
    bytes -= got;
    offset += got;
  }
}

void TokenFile::check_unchanged() const {
  const FileStamp now = stamp_now();
  if (now.bytes != stamp_.bytes) fail_size(now.bytes);
  if (now.changed_ns == known_ns_) return;
  const std::lock_guard lock(recheck_);
  if (now.changed_ns == known_ns_) return;  // another thread has read it meanwhile
  if (!hash_ || scan_bytes(kMaxTokenId + 1).hash != *hash_) fail_changed("it holds other tokens than before");
  known_ns_ = now.changed_ns;
}

void TokenFile::fail_size(std::int64_t bytes) const {
  fail_changed(fmt::format("it has {} bytes and had {} when it was opened", bytes, stamp_.bytes));
}

void TokenFile::fail_changed(const std::string& how) const {
  fail_file(path_, fmt::format("changed while it was in use: {}. Put it back as it was and start again; to go on with "
                               "other tokens, see data.allow_change",
                               how));
}

TokenFileWriter::TokenFileWriter(std::string path)
    : path_(std::move(path)), temporary_(fmt::format("{}.{}.tmp", path_, ::getpid())) {
  fd_ = FileDescriptor(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd_.valid()) fail("be created");
  temporary_exists_ = true;
  buffer_.reserve(kBufferTokens);
}

TokenFileWriter::~TokenFileWriter() {
  if (temporary_exists_) ::unlink(temporary_.c_str());
}

void TokenFileWriter::append(std::span<const int> ids) {
  QAT_CHECK(fd_.valid(), "a complete token file takes no more tokens");
  if (tokens_ + static_cast<std::int64_t>(ids.size()) > kMaxTokensPerFile) {
    fail_file(path_, fmt::format("would hold more than the {} tokens that its header can count", kMaxTokensPerFile));
  }
  for (const int id : ids) {
    if (id < 0 || id > kMaxTokenId) {
      fail_file(path_, fmt::format("cannot hold token id {}: ids are stored in 16 bits, 0 to {}", id, kMaxTokenId));
    }
    buffer_.push_back(static_cast<std::uint16_t>(id));
    if (buffer_.size() == kBufferTokens) flush();
  }
  tokens_ += static_cast<std::int64_t>(ids.size());
}

void TokenFileWriter::complete() {
  QAT_CHECK(fd_.valid(), "a token file is completed once");
  if (tokens_ == 0) fail_file(path_, "would hold no token; expected at least 1");
  flush();
  std::array<std::int32_t, kTokenFileHeaderBytes / sizeof(std::int32_t)> header{};
  header[0] = kTokenFileMagic;
  header[1] = kTokenFileVersion;
  header[2] = static_cast<std::int32_t>(tokens_);
  write_at(header.data(), kTokenFileHeaderBytes, 0);
  if (::fsync(fd_.get()) != 0 || !fd_.close()) fail("be written to disk");
}

void TokenFileWriter::publish() {
  QAT_CHECK(temporary_exists_ && !fd_.valid(), "a token file is published once, when complete");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail("take its final name");
  temporary_exists_ = false;
}

void TokenFileWriter::flush() {
  write_at(buffer_.data(), static_cast<std::int64_t>(buffer_.size()) * kTokenBytes,
           kTokenFileHeaderBytes + written_ * kTokenBytes);
  written_ += static_cast<std::int64_t>(buffer_.size());
  buffer_.clear();
}

void TokenFileWriter::write_at(const void* data, std::int64_t bytes, std::int64_t offset) {
  const auto* from = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    const ::ssize_t wrote = ::pwrite(fd_.get(), from, static_cast<std::size_t>(bytes), offset);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) fail(fmt::format("be written: {} bytes from byte {} on", bytes, offset));
    from += wrote;
    bytes -= wrote;
    offset += wrote;
  }
}

void TokenFileWriter::fail(const std::string& doing) const {
  const int error = errno;
  fail_file(path_, fmt::format("cannot {}: {} (temporary file {})", doing, std::strerror(error), temporary_));
}

}  // namespace qat
