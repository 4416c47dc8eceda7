#pragma once

#include <atomic>

namespace qat::launch {

// From now on SIGTERM, SIGUSR1 and SIGINT are remembered here for the loop to act on at the next step's end. A second
// signal ends the process at once.
const std::atomic<int>& watch_signals();

// 75 (stopped with a checkpoint, resume me) or, for SIGINT, 130.
int exit_code_of_signal(int signal);

}  // namespace qat::launch
