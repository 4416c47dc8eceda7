// A process that another one may have to end, and nothing but that process.
#pragma once

#include <cstdint>
#include <string>

namespace qat::dist {

// The start time tells it from a later process that was given the same number.
struct ProcessId {
  std::int64_t pid = 0;
  std::int64_t start = 0;  // clock ticks after boot; 0: unknown
};

ProcessId this_process();

// Whether it still runs or is stopped: not gone, not merely unreaped. False for a process whose start is not known.
bool is_alive(const ProcessId& process);

// SIGCONT, so that a stopped process can end by itself, if it is alive and not the calling one.
void resume_if_alive(const ProcessId& process);
// SIGKILL, which also ends a stopped process, if it is alive and not the calling one.
void kill_if_alive(const ProcessId& process);

// Equal for processes that see each other under the same numbers: of one machine since its last start, and of one
// container. Empty, and then equal to nobody's, where that cannot be known; so the next one.
std::string process_space();
// Equal for processes that reach each other at 127.0.0.1.
std::string network_space();

}  // namespace qat::dist
