#pragma once

#include <atomic>
#include <string>

namespace qat::launch {

// From now on SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGINT are remembered here, for the run to act on at the next place
// where all ranks can stop. A second one ends the process at once; what comes within half a second is the first
// one again, by another way (launchers signal a job and its processes). A closed standard output (SIGPIPE) and a file
// size limit (SIGXFSZ) are errors of the write that meets them, and end nothing by themselves.
const std::atomic<int>& watch_signals();

// 75 (stopped, resume me) or, for SIGINT, 130.
int exit_code_of_signal(int signal);

// "SIGTERM"
std::string signal_name(int signal);

// What to know about stopping a run that was started by the launcher which the environment shows; empty: nothing.
std::string stop_warning();

}  // namespace qat::launch
