#include "launch/signals.h"

#include <time.h>

#include <csignal>
#include <cstdlib>
#include <cstring>

namespace qat::launch {
namespace {

std::atomic<int> received{0};
std::atomic<long long> received_at{0};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<long long>::is_always_lock_free,
              "set by a signal handler");

long long milliseconds_now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);  // async-signal-safe
  return static_cast<long long>(now.tv_sec) * 1000 + now.tv_nsec / 1000000;
}

void remember(int signal) {
  constexpr long long kSame = 500;
  const long long now = milliseconds_now();
  int none = 0;
  if (received.compare_exchange_strong(none, signal)) {
    received_at = now;
    return;
  }
  if (now - received_at.load() < kSame) return;
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

const char* environment(const char* name) {
  return std::getenv(name);
}  // NOLINT(concurrency-mt-unsafe): nobody sets it

}  // namespace

const std::atomic<int>& watch_signals() {
  struct sigaction action = {};
  action.sa_handler = remember;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;  // system calls of MPI and HDF5 go on
  for (const int signal : {SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGINT}) sigaction(signal, &action, nullptr);
  for (const int signal : {SIGPIPE, SIGXFSZ}) std::signal(signal, SIG_IGN);
  return received;
}

int exit_code_of_signal(int signal) { return signal == SIGINT ? 130 : 75; }

std::string signal_name(int signal) {
  const char* const name = sigabbrev_np(signal);
  return name == nullptr ? "signal " + std::to_string(signal) : std::string("SIG") + name;
}

std::string stop_warning() {
  constexpr int kEnough = 10;
  if (environment("OMPI_COMM_WORLD_SIZE") == nullptr || environment("QAT_STOP_IS_FORWARDED") != nullptr) return "";
  for (const char* name : {"OMPI_MCA_odls_base_sigkill_timeout", "PRTE_MCA_odls_base_sigkill_timeout"})
    if (const char* seconds = environment(name); seconds != nullptr && std::atoi(seconds) >= kEnough) return "";
  return "mpirun kills its ranks a second after it is told to stop (SIGTERM, Ctrl-C): too soon for a checkpoint of "
         "most "
         "runs. Start with launch/run_local.sh, which asks them to save, or give mpirun `--mca "
         "odls_base_sigkill_timeout 60` (they hear of it after so many seconds, and then have as many), or stop the "
         "run "
         "by SIGUSR2 to mpirun";
}

}  // namespace qat::launch
