#include "src/data/document_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/common/error.h"
#include "src/text/pre_tokenizer.h"

namespace qat {

DocumentReader::DocumentReader(std::string path, std::int64_t bytes) : name_(path == "-" ? "standard input" : path) {
  fd_ = FileDescriptor(path == "-" ? ::dup(STDIN_FILENO) : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!fd_.valid() || ::fstat(fd_.get(), &status) != 0) fail("opened");
  if (!S_ISREG(status.st_mode)) return;
  char probe = 0;
  if (status.st_size == 0 && ::pread(fd_.get(), &probe, 1, 0) > 0) return;
  start_ = ::lseek(fd_.get(), 0, SEEK_CUR);
  if (start_ < 0) fail("opened");
  size_ = std::max<std::int64_t>(status.st_size - start_, 0);
  if (bytes == kUnknown) return;
  if (size_ < bytes) fail_shorter();
  size_ = bytes;
}

void DocumentReader::make_sized(const std::string& beside) {
  if (is_sized()) return;
  std::string temporary = beside + ".text.XXXXXX";
  FileDescriptor copy(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!copy.valid()) fail(fmt::format("copied to {}", temporary));
  ::unlink(temporary.c_str());  // the space is given back when the descriptor closes, whatever happens
  std::vector<char> block(kBlockBytes);
  std::int64_t size = 0;
  while (const std::size_t got = read_some(block.data(), block.size())) {
    if (!write_all(copy.get(), {block.data(), got})) fail(fmt::format("copied to {}", temporary));
    size += static_cast<std::int64_t>(got);
  }
  if (::lseek(copy.get(), 0, SEEK_SET) != 0) fail(fmt::format("copied to {}", temporary));
  fd_ = std::move(copy);
  start_ = 0;
  size_ = size;
  observer_ = nullptr;
}

std::int64_t DocumentReader::size() const {
  QAT_CHECK(is_sized(), "the size of a pipe is asked for after make_sized");
  return size_;
}

void DocumentReader::scan(const std::function<void(std::string_view)>& block) const {
  std::vector<char> text(static_cast<std::size_t>(std::min<std::int64_t>(kBlockBytes, size())));
  for (std::int64_t at = 0; at < size();) {
    const auto count = static_cast<std::size_t>(std::min<std::int64_t>(std::ssize(text), size() - at));
    read_at(at, text.data(), count);
    block({text.data(), count});
    at += static_cast<std::int64_t>(count);
  }
}

std::int64_t DocumentReader::held_out_begin(double fraction, std::string_view separator) const {
  const std::int64_t target = size() - static_cast<std::int64_t>(std::floor(static_cast<double>(size()) * fraction));
  if (target <= 0 || target >= size()) return target;
  // Far enough for any text, and never so far that half of a short held-out part is gone.
  const auto searched = static_cast<std::size_t>(std::min<std::int64_t>(kSearchedBytes, (size() - target) / 2));
  constexpr std::int64_t kCharacter = 4;  // a character's bytes; is_certain_boundary looks back over fewer
  const std::int64_t margin = std::ssize(separator) + kCharacter;
  const std::int64_t from = std::max<std::int64_t>(target - margin, 0);
  const auto first = static_cast<std::size_t>(target - from);
  const std::int64_t to = std::min(target + static_cast<std::int64_t>(searched) + margin, size());
  std::string text(static_cast<std::size_t>(to - from), '\0');
  read_at(from, text.data(), text.size());
  if (!separator.empty()) {  // one that the target is in the middle of counts too; one at the start cuts nothing
    const std::size_t earliest =
        std::max<std::size_t>(first - std::min(first, separator.size() - 1), from == 0 ? 1 : 0);
    const std::size_t at = text.find(separator, earliest);
    // One at the very end separates nothing: what it would hold out is itself.
    const bool last = from + static_cast<std::int64_t>(at + separator.size()) == size();
    if (at != std::string::npos && at <= first + searched && !last) return from + static_cast<std::int64_t>(at);
  }
  for (std::size_t at = std::max<std::size_t>(first, 1); at < std::min(first + searched + 1, text.size()); ++at) {
    if (is_certain_boundary(text, at)) return from + static_cast<std::int64_t>(at);
  }
  std::size_t at = first;
  while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;  // inside a UTF-8 character
  return at == text.size() ? target : from + static_cast<std::int64_t>(at);
}

void DocumentReader::read_to(std::int64_t end, const std::function<void(std::string_view)>& block) {
  if (end < 0) end = size_;  // still unknown for a pipe: to its end
  std::string text;
  std::size_t searched = 1;  // no boundary below this
  while (end < 0 || position_ < end) {
    const std::size_t before = text.size();
    const auto want =
        end < 0 ? kBlockBytes : static_cast<std::size_t>(std::min<std::int64_t>(kBlockBytes, end - position_));
    text.resize(before + want);
    const std::size_t got = read_some(text.data() + before, want);
    text.resize(before + got);
    if (got == 0 && end < 0) break;
    if (got == 0) fail_shorter();
    position_ += static_cast<std::int64_t>(got);
    std::size_t cut = text.size();
    while (--cut >= searched && !is_certain_boundary(text, cut)) {
    }
    if (cut >= searched) {
      block(std::string_view(text).substr(0, cut));
      text.erase(0, cut);
    }
    searched = std::max<std::size_t>(text.size(), 1);
  }
  if (!text.empty()) block(text);
}

std::size_t DocumentReader::read_some(char* to, std::size_t bytes) {
  while (true) {
    const ::ssize_t got = ::read(fd_.get(), to, bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("read");
    if (observer_) observer_({to, static_cast<std::size_t>(got)});
    return static_cast<std::size_t>(got);
  }
}

void DocumentReader::read_at(std::int64_t offset, char* to, std::size_t bytes) const {
  for (std::size_t done = 0; done < bytes;) {
    const ::ssize_t got =
        ::pread(fd_.get(), to + done, bytes - done, start_ + offset + static_cast<std::int64_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("read");
    if (got == 0) fail_shorter();
    done += static_cast<std::size_t>(got);
  }
}

void DocumentReader::fail_shorter() const {
  throw Error(ErrorKind::kData, fmt::format("{} became shorter while it was read", name_));
}

void DocumentReader::fail(const std::string& doing) const {
  throw Error(ErrorKind::kData, fmt::format("{} cannot be {}: {}", name_, doing, std::strerror(errno)));
}

}  // namespace qat
