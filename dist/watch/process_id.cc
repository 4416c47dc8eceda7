#include "dist/watch/process_id.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <fstream>

#include "kernels/common/process_stat.h"

namespace qat::dist {
namespace {

// Where a link in /proc points: "pid:[4026531836]"; empty if there is none.
std::string link_target(const char* path) {
  std::array<char, 256> text{};
  const ssize_t count = ::readlink(path, text.data(), text.size());
  return count > 0 ? std::string(text.data(), static_cast<std::size_t>(count)) : std::string();
}

// Of this boot of this machine, and of the container's part of it; empty if the system does not say.
std::string space(const char* link) {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  const std::string part = link_target(link);
  return boot.empty() || part.empty() ? std::string() : boot + " " + part;
}

void signal_if_alive(const ProcessId& process, int signal) {
  if (process.pid != ::getpid() && is_alive(process)) ::kill(static_cast<pid_t>(process.pid), signal);
}

}  // namespace

ProcessId this_process() {
  const std::int64_t pid = ::getpid();
  const auto stat = process_stat(pid);
  return {.pid = pid, .start = stat ? stat->start : 0};
}

bool is_alive(const ProcessId& process) {
  if (process.start == 0) return false;
  const auto stat = process_stat(process.pid);
  return stat && stat->start == process.start && stat->state != 'Z' && stat->state != 'X';
}

void resume_if_alive(const ProcessId& process) { signal_if_alive(process, SIGCONT); }

void kill_if_alive(const ProcessId& process) { signal_if_alive(process, SIGKILL); }

std::string process_space() { return space("/proc/self/ns/pid"); }

std::string network_space() { return space("/proc/self/ns/net"); }

}  // namespace qat::dist
