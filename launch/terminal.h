#pragma once

namespace qat::launch {

// Whether standard output ends at a terminal. Open MPI gives every rank a pseudo-terminal of its own, wherever mpirun's
// output goes; there, mpirun's output decides.
bool output_is_terminal();

}  // namespace qat::launch
