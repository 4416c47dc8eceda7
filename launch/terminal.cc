#include "launch/terminal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace qat::launch {

bool output_is_terminal() {
  if (isatty(STDOUT_FILENO) == 0) return false;
  if (std::getenv("OMPI_COMM_WORLD_RANK") == nullptr) return true;  // NOLINT(concurrency-mt-unsafe): nobody sets it
  const std::string parents = "/proc/" + std::to_string(getppid()) + "/fd/1";
  const int fd = open(parents.c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return false;
  const bool terminal = isatty(fd) != 0;
  close(fd);
  return terminal;
}

void print(std::string_view text) {
  (void)std::fwrite(text.data(), 1, text.size(), stdout);
  (void)std::fflush(stdout);
}

void warn(std::string_view text) { fmt::print(stderr, "qat_dist: warning: {}\n", text); }

}  // namespace qat::launch
