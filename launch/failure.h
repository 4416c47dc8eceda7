// How the program ends when something is wrong: one message from one rank, the same exit code from all.
#pragma once

#include <exception>
#include <functional>

#include "dist/comm/agree.h"
#include "launch/run_status.h"
#include "launch/world.h"

namespace qat::launch {

// Runs `body` and returns its exit code. A failure that all ranks share, an AgreedError or what stops each of them
// within a few seconds, is printed by rank 0 and returned; one of this rank alone is printed here, unless another
// rank has already spoken, and ends the whole job, since the others wait in some collective.
int run_guarded(World& world, RunStatus& status, const std::function<int()>& body);

// What a rank tells the others of an exception (dist::agree).
dist::RankReport report_of(const std::exception& error, const World& world, const RunStatus& status);

// Prints a failure outside a world (start-up, subcommands of one process) and returns its exit code.
int report_failure(const std::exception& error);

}  // namespace qat::launch
