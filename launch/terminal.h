#pragma once

#include <string_view>

namespace qat::launch {

// Whether standard output ends at a terminal. Open MPI gives every rank a pseudo-terminal of its own, wherever mpirun's
// output goes; there, mpirun's output decides.
bool output_is_terminal();

// To standard output, at once. Nobody reading it any more is no reason to end a run: nothing is said then.
void print(std::string_view text);

// "qat_dist: warning: ..." to standard error: of commands that have no log.
void warn(std::string_view text);

}  // namespace qat::launch
