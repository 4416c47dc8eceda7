// What the system says of another process of this machine (/proc/<pid>/stat).
#pragma once

#include <cstdint>
#include <optional>

namespace qat {

struct ProcessStat {
  char state = '?';        // 'R' runs, 'S' sleeps, 'D' waits for a device, 'T' is stopped, 'Z' has ended, ...
  std::int64_t start = 0;  // clock ticks after the machine's boot: tells a process from a later one with its number
};

// Nothing: there is no such process, or no /proc.
std::optional<ProcessStat> process_stat(std::int64_t pid);

}  // namespace qat
