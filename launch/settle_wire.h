// What `comm.wire: auto` stands for in a run: the checkpoint's wire where one goes on, else what is fastest on the
// links that are here (dist/grad/wire_choice.h).
#pragma once

#include <span>
#include <string>

#include "dist/grid/process_grid.h"
#include "launch/world.h"
#include "src/config/run_config.h"

namespace qat::launch {

// What the ranks are and do.
struct WirePlace {
  const dist::Grid& grid;
  const ComputeMode& mode;
  int threads = 1;                       // of a rank
  std::span<const std::string> hosts{};  // of the ranks
  std::int64_t windows_per_epoch = 1;    // of the training data
};

struct SettledWire {
  // Still kAuto: nothing travels here, and nothing is decided for more ranks.
  WireFormatName wire = WireFormatName::kFp32;
  std::string why;  // a line for the log; empty: the configuration names the wire
};

// Collective, before memory is looked at; takes a few seconds at most. The same on every rank.
SettledWire settle_wire(World& world, const RunConfig& config, const WirePlace& place);

}  // namespace qat::launch
