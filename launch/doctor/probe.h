// What `qat_dist doctor` looks at and measures. Each rank for itself, but for what is said to be collective.
#pragma once

#include <string>
#include <vector>

#include "launch/world.h"
#include "src/cost/device_rates.h"
#include "src/doctor/facts.h"

namespace qat::launch {

// The host, the process and how it was started.
RankFacts look_at_host(const World& world);

// A file written, flushed, renamed, locked and removed in `asked`, or where that is not there yet in the folder above
// it; the answers go to `facts`. Collective: rank 0's folder must be everybody's.
void look_at_folder(World& world, const std::string& asked, RankFacts& facts);

// How far other clocks are from rank 0's: [ranks] seconds ahead, and how far off that may be. Rank 0 has them.
// Collective.
struct ClockOffset {
  double ahead_s = 0.0, error_s = 0.0;
};
std::vector<ClockOffset> compare_clocks(World& world);

// Products of GPT-2's shapes, attention and copies, about a second in all: on the GPU of `mode`, or on one core.
DeviceRates measure_speed(const ComputeMode& mode);

// Exchanges between the ranks. Collective; on GPU memory where the world has NCCL. Every rank has the result.
LinkFacts measure_links(World& world, const ComputeMode& mode);

}  // namespace qat::launch
