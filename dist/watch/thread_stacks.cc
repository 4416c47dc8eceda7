#include "dist/watch/thread_stacks.h"

#include <dirent.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "dist/watch/symbol_table.h"

namespace qat::dist {
namespace {

using Clock = std::chrono::steady_clock;

int stack_signal() { return SIGRTMIN + 5; }

// One thread at a time is asked; what it found lies here until the next one is.
constexpr int kMostFrames = 64;
std::array<void*, kMostFrames> frames;
std::atomic<int> frame_count{0};
std::atomic<pid_t> asked{0};  // thread number; 0: nobody
std::atomic<bool> answered{false};

pid_t thread_number() { return static_cast<pid_t>(syscall(SYS_gettid)); }

// A thread that answers too late must not write into another's answer.
void answer(int /*signal*/) {
  const int saved = errno;
  pid_t me = thread_number();
  if (asked.compare_exchange_strong(me, 0)) {
    frame_count = backtrace(frames.data(), kMostFrames);
    answered = true;
  }
  errno = saved;
}

std::string read_small(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  std::array<char, 4096> buffer{};
  const ssize_t count = ::read(fd, buffer.data(), buffer.size());
  ::close(fd);
  return count > 0 ? std::string(buffer.data(), static_cast<std::size_t>(count)) : std::string();
}

// The value of "Name:\tvalue\n" in /proc/.../status.
std::string status_value(const std::string& status, const std::string& name) {
  const std::size_t at = status.find("\n" + name + ":\t");
  if (at == std::string::npos) return {};
  const std::size_t begin = at + name.size() + 3;
  return status.substr(begin, status.find('\n', begin) - begin);
}

bool blocks_signal(const std::string& status) {
  const std::uint64_t mask = std::strtoull(status_value(status, "SigBlk").c_str(), nullptr, 16);
  return (mask >> static_cast<unsigned>(stack_signal() - 1) & 1U) != 0;
}

std::vector<pid_t> threads_of_this_process() {
  std::vector<pid_t> threads;
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc/self/task"), closedir);
  if (!folder) return threads;
  while (const dirent* entry = readdir(folder.get()))  // NOLINT(concurrency-mt-unsafe): the stream is this call's own
    if (const int number = std::atoi(entry->d_name); number > 0) threads.push_back(number);
  std::sort(threads.begin(), threads.end());
  return threads;
}

std::string describe_frame(int number, void* address, const SymbolTable& own) {
  const auto place = reinterpret_cast<std::uintptr_t>(address);
  const std::string text = "  #" + std::to_string(number) + " ";
  // A return address is one past its call, which may be the last instruction of its function.
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(place - 1), &info) == 0 || info.dli_fname == nullptr)
    return text + hex(place) + "\n";
  const auto base = reinterpret_cast<std::uintptr_t>(info.dli_fbase);
  Dl_info program{};
  const bool is_own =
      dladdr(reinterpret_cast<void*>(&describe_frame), &program) != 0 && program.dli_fbase == info.dli_fbase;
  std::string name = is_own ? own.describe(place - 1, base) : std::string();
  if (name.empty() && info.dli_sname != nullptr)
    name = demangled(info.dli_sname) + " + " + hex(place - 1 - reinterpret_cast<std::uintptr_t>(info.dli_saddr));
  if (name.empty()) name = "?";
  return text + name + " (" + info.dli_fname + "+" + hex(place - base) + ")\n";
}

// True once the thread has answered.
bool ask(pid_t thread, Clock::time_point deadline) {
  answered = false;
  asked = thread;
  if (syscall(SYS_tgkill, getpid(), thread, stack_signal()) == 0) {
    while (!answered && Clock::now() < deadline) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  // Either it is withdrawn, or the thread has begun and will be done in a moment.
  pid_t expected = thread;
  if (asked.compare_exchange_strong(expected, 0)) return false;
  while (!answered && Clock::now() < deadline + std::chrono::milliseconds(200))
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return answered;
}

std::string describe_thread(pid_t thread, Clock::time_point deadline, const SymbolTable& own) {
  const std::string folder = "/proc/self/task/" + std::to_string(thread);
  const std::string status = read_small(folder + "/status");
  if (status.empty()) return {};  // it has ended
  std::string name = read_small(folder + "/comm");
  while (!name.empty() && name.back() == '\n') name.pop_back();
  std::string text = "thread " + std::to_string(thread) + " \"" + name + "\", " + status_value(status, "State");
  if (thread == getpid()) text += ", the main thread";
  if (blocks_signal(status)) return text + ": no stack, since it blocks signals\n";
  if (!ask(thread, deadline)) return text + ": no stack, since it does not answer\n";
  text += ":\n";
  // The first two are the handler and what the system calls it from.
  const int count = frame_count;
  for (int i = std::min(2, count); i < count; ++i)
    text += describe_frame(i - 2, frames[static_cast<std::size_t>(i)], own);
  return text;
}

}  // namespace

void prepare_thread_stacks() {
  std::array<void*, 4> some{};
  (void)backtrace(some.data(), static_cast<int>(some.size()));  // its first call loads a library: not in a handler
  struct sigaction action = {};
  action.sa_handler = answer;
  sigfillset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(stack_signal(), &action, nullptr);
}

std::string describe_threads(double seconds) {
  constexpr auto kEach = std::chrono::milliseconds(300);
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  const SymbolTable own = SymbolTable::of_this_program();
  std::string text;
  for (const pid_t thread : threads_of_this_process()) {
    if (thread == thread_number()) continue;
    text += describe_thread(thread, std::min(end, Clock::now() + kEach), own);
  }
  return text;
}

}  // namespace qat::dist
