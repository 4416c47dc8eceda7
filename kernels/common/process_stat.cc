#include "kernels/common/process_stat.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

namespace qat {
namespace {

// A line of at most a few hundred bytes; empty if it cannot be read. Without streams: the caller may be ending a
// process whose other threads hold any lock.
std::string read_line(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  std::array<char, 2048> buffer{};
  const ssize_t count = ::read(fd, buffer.data(), buffer.size());
  ::close(fd);
  return count > 0 ? std::string(buffer.data(), static_cast<std::size_t>(count)) : std::string();
}

}  // namespace

std::optional<ProcessStat> process_stat(std::int64_t pid) {
  const std::string line = read_line("/proc/" + std::to_string(pid) + "/stat");
  // Fields are counted from the last ')', since a program's name may hold blanks: " S 1 2 ...", field 3 comes first.
  const std::size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::string_view rest = std::string_view(line).substr(name_end + 1);
  ProcessStat stat;
  for (int field = 3; field <= 22; ++field) {
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    if (rest.empty()) return std::nullopt;
    if (field == 3) stat.state = rest.front();
    if (field < 22) rest.remove_prefix(std::min(rest.find(' '), rest.size()));
  }
  for (const char c : rest) {
    if (c < '0' || c > '9') break;
    stat.start = stat.start * 10 + (c - '0');
  }
  return stat;
}

}  // namespace qat
