#include "launch/signals.h"

#include <csignal>

namespace qat::launch {
namespace {

std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free, "set by a signal handler");

void remember(int signal) {
  if (received.exchange(signal) == 0) return;
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

}  // namespace

const std::atomic<int>& watch_signals() {
  struct sigaction action = {};
  action.sa_handler = remember;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;  // system calls of MPI and HDF5 go on
  for (const int signal : {SIGTERM, SIGUSR1, SIGINT}) sigaction(signal, &action, nullptr);
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is then a write error, which says which file
  return received;
}

int exit_code_of_signal(int signal) { return signal == SIGINT ? 130 : 75; }

}  // namespace qat::launch
