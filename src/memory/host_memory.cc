#include "src/memory/host_memory.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <utility>
#include <vector>

#include "src/base/file.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAddressSpace = "ulimit -v";
// Address space: a stack of the usual size, and the C library's heap of a thread.
constexpr std::int64_t kThreadSpace = std::int64_t{8 + 64} << 20;

// Empty if it cannot be read.
std::string text_of(const fs::path& path) {
  try {
    return read_file(path);
  } catch (const Error&) {
    return {};
  }
}

// root / "/proc/meminfo" would be /proc/meminfo.
fs::path below(const fs::path& root, const fs::path& path) { return root / path.relative_path(); }

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t end = text.find(separator);
    if (end > 0 && !text.empty()) parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::optional<std::int64_t> number_of(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure == std::errc()) return value;
  return std::nullopt;  // "max", or nothing
}

// "inactive_file 4096" in memory.stat.
std::int64_t stat_of(std::string_view text, std::string_view name) {
  for (const std::string_view line : split(text, '\n'))
    if (line.starts_with(name) && line.size() > name.size() && line[name.size()] == ' ')
      return number_of(line.substr(name.size() + 1)).value_or(0);
  return 0;
}

// How a version of control groups names its files.
struct GroupFiles {
  const char* limit;
  const char* usage;
  const char* droppable[2];  // in memory.stat
};
constexpr GroupFiles kVersion1 = {
    "memory.limit_in_bytes", "memory.usage_in_bytes", {"total_inactive_file", "total_active_file"}};
constexpr GroupFiles kVersion2 = {"memory.max", "memory.current", {"inactive_file", "active_file"}};

std::optional<std::int64_t> left_in(const fs::path& group, const GroupFiles& files) {
  const std::optional<std::int64_t> limit = number_of(text_of(group / files.limit));
  const std::optional<std::int64_t> usage = number_of(text_of(group / files.usage));
  constexpr std::int64_t kUnlimited = std::int64_t{1} << 60;  // version 1 has a large number for "no limit"
  if (!limit || !usage || *limit >= kUnlimited) return std::nullopt;
  const std::string stat = text_of(group / "memory.stat");
  std::int64_t droppable = 0;
  for (const char* name : files.droppable) droppable += stat_of(stat, name);
  return std::max<std::int64_t>(0, *limit - *usage + std::min(droppable, *usage));
}

struct Mount {
  std::string group;   // which one stands at the mount point
  std::string folder;  // the mount point
};

// Where the memory controller's groups are: the line of /proc/self/mountinfo, fields "... ROOT FOLDER options - TYPE
// SOURCE SUPER-OPTIONS".
std::optional<Mount> memory_mount(std::string_view mounts, bool version2) {
  for (const std::string_view line : split(mounts, '\n')) {
    const std::size_t dash = line.find(" - ");
    if (dash == std::string_view::npos) continue;
    const auto before = split(line.substr(0, dash), ' '), after = split(line.substr(dash + 3), ' ');
    if (before.size() < 5 || after.size() < 3) continue;
    const auto options = split(after[2], ',');
    const bool is_it =
        version2 ? after[0] == "cgroup2"
                 : after[0] == "cgroup" && std::find(options.begin(), options.end(), "memory") != options.end();
    if (is_it) return Mount{std::string(before[3]), std::string(before[4])};
  }
  return std::nullopt;
}

// This process's group in a hierarchy: "0::/path" (version 2) or "4:memory:/path" in /proc/self/cgroup.
std::optional<std::string> own_group(std::string_view groups, bool version2) {
  for (const std::string_view line : split(groups, '\n')) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const auto controllers = split(line.substr(first + 1, second - first - 1), ',');
    const bool is_it = version2 ? line.starts_with("0::")
                                : std::find(controllers.begin(), controllers.end(), "memory") != controllers.end();
    if (is_it) return std::string(line.substr(second + 1));
  }
  return std::nullopt;
}

// The limits of a group and of all groups around it.
void look_upwards(const fs::path& root, bool version2, std::int64_t& least, std::string& name) {
  const std::string groups = text_of(below(root, "/proc/self/cgroup"));
  const std::optional<std::string> group = own_group(groups, version2);
  const std::optional<Mount> mount = memory_mount(text_of(below(root, "/proc/self/mountinfo")), version2);
  if (!group || !mount) return;
  // In a container the mount may begin at the container's own group, and the path still say where the host has it.
  fs::path inside = group->starts_with(mount->group) ? group->substr(mount->group.size()) : "";
  const fs::path top = below(root, mount->folder);
  if (!fs::exists(top / inside.relative_path())) inside.clear();
  for (inside = inside.relative_path();; inside = inside.parent_path()) {
    const auto left = left_in(top / inside, version2 ? kVersion2 : kVersion1);
    if (left && *left < least) least = *left, name = "/" + inside.string();
    if (inside.empty()) return;
  }
}

// What a resource limit leaves; `used` now.
std::int64_t left_of(decltype(RLIMIT_AS) resource, std::optional<std::int64_t> used) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || !used) return kNoLimit;
  return std::max<std::int64_t>(0, static_cast<std::int64_t>(limit.rlim_cur) - *used);
}

}  // namespace

std::optional<std::int64_t> kilobytes_field(std::string_view text, std::string_view name) {
  for (std::string_view line : split(text, '\n')) {
    if (!line.starts_with(name) || line.size() <= name.size() || line[name.size()] != ':') continue;
    line.remove_prefix(name.size() + 1);
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    if (const auto number = number_of(line)) return *number * 1024;
  }
  return std::nullopt;
}

std::optional<std::int64_t> control_group_free(const fs::path& root, std::string& name) {
  std::int64_t least = kNoLimit;
  look_upwards(root, /*version2=*/true, least, name);
  look_upwards(root, /*version2=*/false, least, name);
  return least == kNoLimit ? std::nullopt : std::optional(least);
}

HostMemory read_host_memory(const fs::path& root) {
  const std::string status = text_of(below(root, "/proc/self/status"));
  HostMemory host{
      .shared_free = kilobytes_field(text_of(below(root, "/proc/meminfo")), "MemAvailable").value_or(kNoLimit),
      .shared_source = "free memory of this host",
      .own_free = kNoLimit,
      .own_source = {},
      .resident = kilobytes_field(status, "VmRSS").value_or(0),
      .peak_resident = kilobytes_field(status, "VmHWM").value_or(0)};
  std::string group;
  if (const auto left = control_group_free(root, group); left && *left < host.shared_free) {
    host.shared_free = *left;
    host.shared_source = fmt::format("memory limit of the control group {}", group);
  }
  const std::int64_t space = left_of(RLIMIT_AS, kilobytes_field(status, "VmSize"));
  const std::int64_t data = left_of(RLIMIT_DATA, kilobytes_field(status, "VmData"));
  host.own_free = std::min(space, data);
  if (host.own_free != kNoLimit) host.own_source = space <= data ? kAddressSpace : "ulimit -d";
  return host;
}

MemoryShare share_of(const HostMemory& host, int ranks_here, int threads) {
  const std::int64_t shared = host.shared_free == kNoLimit ? kNoLimit : host.shared_free / std::max(1, ranks_here);
  std::int64_t own = host.own_free;
  if (own != kNoLimit && host.own_source == kAddressSpace)
    own = std::max<std::int64_t>(0, own - (threads - 1) * kThreadSpace);
  if (own < shared) return {host.resident + own, host.own_source};
  if (shared == kNoLimit) return {};
  return {host.resident + shared, host.shared_source + (ranks_here > 1 ? fmt::format(" / {} ranks", ranks_here) : "")};
}

}  // namespace qat
