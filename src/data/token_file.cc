#include "src/data/token_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
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
    fail_at(path, 0, fmt::format("the magic number {} of a token shard", kTokenFileMagic), std::to_string(header[0]));
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

}  // namespace

void check_vocabulary(std::span<const std::uint16_t> tokens, int vocab_size, const std::string& where,
                      std::int64_t first_byte) {
  constexpr std::size_t kBlock = 4096;
  for (std::size_t begin = 0; begin < tokens.size(); begin += kBlock) {
    const std::span<const std::uint16_t> block = tokens.subspan(begin, std::min(kBlock, tokens.size() - begin));
    std::uint16_t largest = 0;
    for (const std::uint16_t token : block) largest = std::max(largest, token);  // vectorises
    if (largest < vocab_size) continue;
    const auto bad = std::find_if(block.begin(), block.end(), [&](std::uint16_t token) { return token >= vocab_size; });
    const std::int64_t index = static_cast<std::int64_t>(begin) + (bad - block.begin());
    throw Error(ErrorKind::kData,
                fmt::format("{}: at byte {} (token {}): expected an id below the model's vocabulary of {}, found {}; "
                            "was the text tokenized for another model?",
                            where, first_byte + index * kTokenBytes, index, vocab_size, *bad));
  }
}

TokenFile TokenFile::open(const std::string& path) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a pipe must not block
  if (!fd.valid()) fail_file(path, fmt::format("cannot be opened: {}", std::strerror(errno)));
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) fail_file(path, "is not a regular file");
  if (status.st_size < kTokenFileHeaderBytes) {
    fail_at(path, status.st_size, fmt::format("a header of {} bytes", kTokenFileHeaderBytes), "the end of the file");
  }
  void* map = ::mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_SHARED, fd.get(), 0);
  if (map == MAP_FAILED) fail_file(path, fmt::format("cannot be mapped: {}", std::strerror(errno)));
  return TokenFile(path, map, status.st_size);
}

TokenFile::TokenFile(std::string path, void* map, std::int64_t bytes)
    : path_(std::move(path)), map_(map), bytes_(bytes) {
  std::array<std::int32_t, 3> header;
  std::memcpy(header.data(), map_, sizeof header);
  std::int64_t count = 0;
  try {
    count = checked_count(path_, header, bytes_);
  } catch (...) {  // the destructor of a half-made object does not run
    ::munmap(map_, static_cast<std::size_t>(bytes_));
    throw;
  }
  const auto* first = static_cast<const std::byte*>(map_) + kTokenFileHeaderBytes;
  tokens_ = {reinterpret_cast<const std::uint16_t*>(first), static_cast<std::size_t>(count)};
}

TokenFile::TokenFile(TokenFile&& other) noexcept
    : path_(std::move(other.path_)),
      map_(std::exchange(other.map_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      tokens_(std::exchange(other.tokens_, {})) {}

TokenFile& TokenFile::operator=(TokenFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(map_, other.map_);
  std::swap(bytes_, other.bytes_);
  std::swap(tokens_, other.tokens_);
  return *this;
}

TokenFile::~TokenFile() {
  if (map_ != nullptr) ::munmap(map_, static_cast<std::size_t>(bytes_));
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
