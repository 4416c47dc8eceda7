#include "launch/child_run.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

#include "kernels/common/error.h"
#include "launch/command_line.h"

namespace qat::launch {

int run_to_end(const std::vector<std::string>& command, const std::atomic<int>& signal) {
  std::vector<char*> arguments;
  for (const std::string& one : command) arguments.push_back(const_cast<char*>(one.c_str()));
  arguments.push_back(nullptr);
  // The child's end of the pipe closes when it becomes the command; before that it says why it does not.
  std::array<int, 2> pipe{};
  if (pipe2(pipe.data(), O_CLOEXEC) != 0)
    throw Error(ErrorKind::kConfig, fmt::format("no process for a run: {}", std::strerror(errno)));
  const pid_t child = fork();
  if (child == 0) {
    execvp(arguments[0], arguments.data());
    const int why = errno;
    (void)!write(pipe[1], &why, sizeof why);
    _exit(127);
  }
  close(pipe[1]);
  int why = child < 0 ? errno : 0;
  if (child > 0 && read(pipe[0], &why, sizeof why) <= 0) why = 0;
  close(pipe[0]);
  int status = 0;
  if (why != 0) {
    if (child > 0) waitpid(child, &status, 0);
    throw Error(ErrorKind::kConfig, fmt::format("{}: cannot be started: {}", shell_line(command), std::strerror(why)));
  }
  bool told = false;
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (const int number = signal.load(); number != 0 && !told) kill(child, number), told = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace qat::launch
