#include "src/export/safetensors_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>

#include "kernels/common/error.h"
#include "src/checkpoint/durable_file.h"

namespace qat {
namespace {

constexpr std::size_t kBlockElems = std::size_t{1} << 18;

std::string reason(int error) { return std::generic_category().message(error); }

const char* type_name(FloatFormat format) {
  switch (format) {
    case FloatFormat::kFloat16:
      return "F16";
    case FloatFormat::kBFloat16:
      return "BF16";
    case FloatFormat::kFloat32:
      break;
  }
  return "F32";
}

}  // namespace

SafetensorsFile::SafetensorsFile(std::filesystem::path path)
    : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (!fd_.valid()) fail("cannot be opened: " + reason(errno));
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0 || !S_ISREG(status.st_mode)) fail("is not a regular file");
  opened_ = stamp();
  std::uint64_t length = 0;
  if (opened_.bytes < kSafetensorsLengthBytes)
    fail(fmt::format("has {} bytes; a safetensors file begins with {} bytes of its header's length", opened_.bytes,
                     kSafetensorsLengthBytes));
  read_bytes(std::as_writable_bytes(std::span(&length, 1)), /*offset=*/0);
  if (std::cmp_greater(length, kMaxSafetensorsHeader))
    fail(
        fmt::format("is no safetensors file, or has a header beyond the {} MiB that are read: its first {} bytes say "
                    "that it has {} bytes",
                    kMaxSafetensorsHeader >> 20, kSafetensorsLengthBytes, length));
  data_offset_ = kSafetensorsLengthBytes + static_cast<std::int64_t>(length);
  if (opened_.bytes < data_offset_)
    fail(fmt::format("has {} bytes, fewer than its header of {}: is the copy complete?", opened_.bytes, length));
  std::string text(static_cast<std::size_t>(length), '\0');
  read_bytes(std::as_writable_bytes(std::span(text)), kSafetensorsLengthBytes);
  tensors_ = parse_safetensors_header(text, opened_.bytes - data_offset_, path_.string());
}

SafetensorsFile::Stamp SafetensorsFile::stamp() const {
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0) fail("cannot be read: " + reason(errno));
  return {.bytes = status.st_size,
          .changed_ns = std::int64_t{status.st_ctim.tv_sec} * 1'000'000'000 + status.st_ctim.tv_nsec};
}

void SafetensorsFile::read_bytes(std::span<std::byte> out, std::int64_t offset) const {
  while (!out.empty()) {
    const ssize_t got = ::pread(fd_.get(), out.data(), out.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(fmt::format("cannot be read at byte {}: {}", offset, reason(errno)));
    if (got == 0)
      fail(fmt::format("was cut short while it was in use: it ends at byte {} and had {} when it was opened", offset,
                       opened_.bytes));
    out = out.subspan(static_cast<std::size_t>(got));
    offset += got;
  }
}

void SafetensorsFile::read(const StoredTensor& tensor, std::int64_t first, std::span<float> out) const {
  const std::optional<FloatFormat> format = tensor.format();
  QAT_CHECK(format && first >= 0 && first + static_cast<std::int64_t>(out.size()) <= tensor.elems,
            "floating-point values are read from inside a tensor");
  std::vector<std::byte> block;
  while (!out.empty()) {
    const std::span<float> some = out.first(std::min(out.size(), kBlockElems));
    block.resize(some.size() * static_cast<std::size_t>(bytes_of(*format)));
    read_bytes(block, data_offset_ + tensor.begin + first * bytes_of(*format));
    to_float(*format, block, some);
    const auto bad = std::find_if(some.begin(), some.end(), [](float value) { return !std::isfinite(value); });
    if (bad != some.end())
      fail(fmt::format("tensor {}: element {} is {}, expected finite numbers", shown_name(tensor.name),
                       first + (bad - some.begin()), *bad));
    first += static_cast<std::int64_t>(some.size());
    out = out.subspan(some.size());
  }
}

void SafetensorsFile::require_unchanged() const {
  if (stamp() != opened_) fail("was written to while it was in use: start again when it is complete");
}

void SafetensorsFile::fail(const std::string& what) const {
  throw Error(ErrorKind::kData, fmt::format("{} {}", path_.string(), what));
}

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, FloatFormat format,
                                     const std::vector<TensorToWrite>& tensors)
    : path_(std::move(path)), temporary_(fmt::format("{}.{}.tmp", path_.string(), ::getpid())), format_(format) {
  std::int64_t end = 0;
  for (const TensorToWrite& tensor : tensors) {
    const std::int64_t elems = element_count(tensor.shape), begin = end;
    end += elems * bytes_of(format);
    tensors_.push_back({tensor.name, type_name(format), tensor.shape, elems, begin, end});
  }
  const std::string header = safetensors_header(tensors_);
  bytes_ = static_cast<std::int64_t>(header.size()) + end;
  fd_ = FileDescriptor(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd_.valid()) fail("be created", errno);
  temporary_exists_ = true;
  const auto refuse = [&](const std::string& what, int error) {
    ::unlink(temporary_.c_str());  // no destructor comes
    fail(what, error);
  };
  if (const std::int64_t free = free_bytes(temporary_); free >= 0 && free < bytes_)
    refuse(fmt::format("be written: it has {} bytes, and {} are free there", bytes_, free), ENOSPC);
  if (!write_all(fd_.get(), header)) refuse("be written", errno);
}

SafetensorsWriter::~SafetensorsWriter() {
  if (temporary_exists_) ::unlink(temporary_.c_str());
}

void SafetensorsWriter::append(std::span<const float> values) {
  QAT_CHECK(fd_.valid(), "a complete file takes no more values");
  while (!values.empty()) {
    const std::size_t some = std::min(values.size(), kBlockElems);
    append_block(values.first(some));
    values = values.subspan(some);
  }
}

void SafetensorsWriter::append_block(std::span<const float> values) {
  std::vector<std::byte> block(values.size() * static_cast<std::size_t>(bytes_of(format_)));
  from_float(format_, values, block);
  std::vector<float> kept(values.size());
  to_float(format_, block, kept);
  for (std::size_t i = 0; i < kept.size(); ++i) {
    if (std::isfinite(kept[i])) continue;
    const std::int64_t byte = written_ + static_cast<std::int64_t>(i) * bytes_of(format_);
    throw Error(ErrorKind::kData, fmt::format("tensor {} has the value {}, which {} cannot hold: choose another format",
                                              tensor_at(byte), values[i], enum_name(format_)));
  }
  if (!write_all(fd_.get(), {reinterpret_cast<const char*>(block.data()), block.size()})) fail("be written", errno);
  written_ += static_cast<std::int64_t>(block.size());
}

std::string SafetensorsWriter::tensor_at(std::int64_t byte) const {
  for (const StoredTensor& tensor : tensors_)
    if (byte >= tensor.begin && byte < tensor.end) return shown_name(tensor.name);
  return "beyond the last";
}

void SafetensorsWriter::complete() {
  QAT_CHECK(fd_.valid() && written_ == (tensors_.empty() ? 0 : tensors_.back().end), "every value is written once");
  if (::fsync(fd_.get()) != 0 || !fd_.close()) fail("be written to disk", errno);
}

void SafetensorsWriter::publish() {
  QAT_CHECK(temporary_exists_ && !fd_.valid(), "a file is published once, when complete");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail("take its name", errno);
  temporary_exists_ = false;
  sync_to_disk(path_.has_parent_path() ? path_.parent_path() : ".");
}

void SafetensorsWriter::fail(const std::string& what, int error) const {
  throw Error(ErrorKind::kData, fmt::format("{} cannot {}: {} (temporary file {})", path_.string(), what, reason(error),
                                            temporary_.string()));
}

}  // namespace qat
