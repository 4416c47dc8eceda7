#include "launch/child_run.h"

#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <iterator>
#include <sstream>
#include <system_error>
#include <thread>

#include "kernels/common/error.h"
#include "launch/command_line.h"

extern char** environ;  // NOLINT: POSIX has it so

namespace qat::launch {

std::vector<std::string> this_program(const std::string& launcher, const std::vector<std::string>& arguments) {
  std::istringstream words(launcher);
  std::vector<std::string> command{std::istream_iterator<std::string>(words), {}};
  command.push_back(std::filesystem::read_symlink("/proc/self/exe").string());
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

int run_to_end(const std::vector<std::string>& command, const std::atomic<int>& signal) {
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));  // NOLINT: exec's own type
  words.push_back(nullptr);
  pid_t child = 0;
  if (const int why = posix_spawnp(&child, words[0], nullptr, nullptr, words.data(), environ); why != 0)
    throw Error(ErrorKind::kConfig,
                fmt::format("{}: cannot be started: {}", shell_line(command), std::generic_category().message(why)));
  bool told = false;
  int status = 0;
  while (true) {
    const pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended == child || (ended < 0 && errno != EINTR)) break;
    if (const int number = signal.load(); number != 0 && !told) told = kill(child, number) == 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace qat::launch
