// A command as a process of its own, for programs that make several runs one after the other.
#pragma once

#include <atomic>
#include <string>
#include <vector>

namespace qat::launch {

// This program with these arguments, started by `launcher` ("mpirun -np 4", words between blanks; empty: by nothing).
std::vector<std::string> this_program(const std::string& launcher, const std::vector<std::string>& arguments);

// Runs it to its end, with this process's input and outputs, and gives its exit code; 128 + the signal that ended it.
// Whatever `signal` comes to be meanwhile is passed on to it. Throws Error(kConfig) if it cannot be started.
int run_to_end(const std::vector<std::string>& command, const std::atomic<int>& signal);

}  // namespace qat::launch
