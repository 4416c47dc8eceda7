// How the program ends when something is wrong: one message from one rank, the same exit code from all.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "dist/comm/agree.h"
#include "launch/memory_check.h"
#include "launch/world.h"

namespace qat::launch {

// What a failing run can say about itself; filled in as the run goes.
struct RunStatus {
  std::string run_dir;                          // empty: not known yet
  std::optional<std::int64_t> last_step;        // completed
  std::string last_checkpoint;                  // empty: none
  std::unique_ptr<const MemoryOutlook> memory;  // null: not looked at yet
};

// Runs `body` and returns its exit code. A failure that all ranks share, an AgreedError or what stops each of them
// within a few seconds, is printed by rank 0 and returned; one of this rank alone is printed here and ends the whole
// job, since the others wait in some collective.
int run_guarded(World& world, const RunStatus& status, const std::function<int()>& body);

// What a rank tells the others of an exception (dist::agree).
dist::RankReport report_of(const std::exception& error, const World& world, const RunStatus& status);

// Prints a failure outside a world (start-up, subcommands of one process) and returns its exit code.
int report_failure(const std::exception& error);

}  // namespace qat::launch
