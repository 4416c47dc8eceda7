// How much main memory there is for a process, from what Linux says: free memory, the limits of its control groups
// (containers, batch systems), and those of the process itself (ulimit).
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

namespace qat {

constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

struct HostMemory {
  // Still to be had by all processes of this host, or of this one's control group, together.
  std::int64_t shared_free = kNoLimit;
  std::string shared_source;  // "free memory of this host" or "memory limit of the control group /slurm/job_1"
  // Still to be had by this process under limits of its own.
  std::int64_t own_free = kNoLimit;
  std::string own_source;          // "ulimit -v" or "ulimit -d"
  std::int64_t resident = 0;       // what this process has in memory now
  std::int64_t peak_resident = 0;  // and had at most
};

// As things are now. Whatever cannot be read (no /proc, no such control group) sets no limit.
// root: where the files are looked for, "/" but in tests. Limits of the process (ulimit) are always its own.
HostMemory read_host_memory(const std::filesystem::path& root = "/");

// What one of `ranks_here` processes like this one may have resident in all, with what it has; and which limit that is.
// Under a limit of address space, each of its `threads` but the first takes room for its stack and its heap.
struct MemoryShare {
  std::int64_t bytes = kNoLimit;
  std::string source;
};
MemoryShare share_of(const HostMemory& host, int ranks_here, int threads);

// "MemAvailable:   12345 kB" in the text of /proc/meminfo or /proc/self/status -> bytes; none: no such line.
std::optional<std::int64_t> kilobytes_field(std::string_view text, std::string_view name);

// The least that a memory control group around this process leaves, v1 or v2; none: no limit. Pages of files that the
// kernel can drop do not count as used. name: set to the group's.
std::optional<std::int64_t> control_group_free(const std::filesystem::path& root, std::string& name);

}  // namespace qat
