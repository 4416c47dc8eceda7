// run.dir/status.json: where a run stands, for whoever finds its folder, also after an end that nobody announced.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace qat {

struct StatusRecord {
  std::string state = "running";          // running, stopped (start again to go on), finished, failed
  std::optional<std::int64_t> last_step;  // last one that was completed, of 1, 2, ...
  std::string checkpoint;                 // newest complete one; empty: none
  std::string section;                    // what rank 0 is doing: "step", "evaluation", ...
  std::string host;                       // rank 0's
  std::int64_t pid = 0;                   // its
  std::string job;                        // batch job; empty: none
  int exit_code = 0;                      // stopped and failed
  std::string what;                       // failed: why
  std::string next_command;               // to go on, or to begin again
};

// Replaces the file, with the time of day; false, with errno set, if it cannot be written. Does not wait for the disk.
bool write_status(const std::filesystem::path& path, const StatusRecord& record);

}  // namespace qat
