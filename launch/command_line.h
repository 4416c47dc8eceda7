#pragma once

#include <string>
#include <vector>

namespace qat::launch {

// What to type to start this run again: the command of this process, under the launcher that started it (mpirun or
// run_local.sh, as far as the system still knows), quoted for a shell. In a batch job whose launcher is not seen, the
// command alone.
std::string command_to_start_again(int ranks);

// Arguments as one line for a shell.
std::string shell_line(const std::vector<std::string>& arguments);

}  // namespace qat::launch
