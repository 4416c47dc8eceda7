// What a user reads when a run ends badly: one block, printed once, from one rank.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kernels/common/error.h"

namespace qat {

struct FailureReport {
  int exit_code = 1;
  std::string what;                       // the error's own words; may have several lines
  int rank = 0;                           // that it concerns
  std::string host;                       // its
  std::int64_t pid = 0;                   // its; 0: not said
  std::string doing;                      // what it did: "step, in all_gather, for 31 s"; empty: not said
  std::string others;                     // what the other ranks did; empty: not said
  bool of_run = true;                     // false: another command, or no run folder yet: no step and no checkpoint
  std::optional<std::int64_t> last_step;  // last one that every rank completed; none: training had not begun
  std::string checkpoint;                 // last good one; empty: there is none
  std::string next_command;               // what to type next; empty: nothing helps but another configuration
  std::string log_file;                   // where details are; empty: nowhere
};

// "out of memory", "configuration or usage", ...: the meaning of a process's exit code.
std::string exit_code_meaning(int exit_code);

// Ends with a line end.
std::string to_text(const FailureReport& report);

}  // namespace qat
