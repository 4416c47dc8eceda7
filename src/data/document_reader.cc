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

DocumentReader::DocumentReader(std::string path) : name_(path == "-" ? "standard input" : path) {
  fd_ = FileDescriptor(path == "-" ? ::dup(STDIN_FILENO) : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!fd_.valid() || ::fstat(fd_.get(), &status) != 0) fail("opened");
  if (!S_ISREG(status.st_mode)) return;
  start_ = ::lseek(fd_.get(), 0, SEEK_CUR);
  if (start_ < 0) fail("opened");
  size_ = std::max<std::int64_t>(status.st_size - start_, 0);
}

void DocumentReader::make_sized(const std::string& beside) {
  if (size_ >= 0) return;
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
  position_ = 0;
}

std::int64_t DocumentReader::size() const {
  QAT_CHECK(size_ >= 0, "the size of a pipe is asked for after make_sized");
  return size_;
}

std::int64_t DocumentReader::held_out_begin(double fraction) const {
  const std::int64_t target = size() - static_cast<std::int64_t>(std::floor(static_cast<double>(size()) * fraction));
  if (target <= 0 || target >= size()) return target;
  constexpr std::int64_t kBefore = 3;  // bytes that is_certain_boundary looks back
  constexpr std::int64_t kSearched = std::int64_t{64} << 10;
  const std::int64_t from = std::max<std::int64_t>(target - kBefore, 0);
  std::string text(static_cast<std::size_t>(std::min(target + kSearched, size()) - from), '\0');
  for (std::size_t got = 0; got < text.size();) {
    const ::ssize_t n =
        ::pread(fd_.get(), text.data() + got, text.size() - got, start_ + from + static_cast<std::int64_t>(got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("read");
    if (n == 0) throw Error(ErrorKind::kData, fmt::format("{} became shorter while it was read", name_));
    got += static_cast<std::size_t>(n);
  }
  const auto first = static_cast<std::size_t>(target - from);
  const auto find = [&](auto&& accept) {
    std::size_t at = first;
    while (at < text.size() && !accept(at)) ++at;
    return at;
  };
  std::size_t at = find([&](std::size_t i) { return is_certain_boundary(text, i); });
  if (at == text.size()) {  // 10xxxxxx: inside a UTF-8 character
    at = find([&](std::size_t i) { return (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80; });
  }
  return at == text.size() ? target : from + static_cast<std::int64_t>(at);
}

void DocumentReader::read_to(std::int64_t end, const std::function<void(std::string_view)>& block) {
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
    if (got == 0) throw Error(ErrorKind::kData, fmt::format("{} became shorter while it was read", name_));
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
    if (got >= 0) return static_cast<std::size_t>(got);
    if (errno != EINTR) fail("read");
  }
}

void DocumentReader::fail(const std::string& doing) const {
  throw Error(ErrorKind::kData, fmt::format("{} cannot be {}: {}", name_, doing, std::strerror(errno)));
}

}  // namespace qat
