// How long the exchange of gradients takes in each format on the links that there are: tried.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/grad/grad_wire.h"
#include "kernels/common/exec.h"

namespace qat::dist {

struct WireTrial {
  std::int64_t elems = 0;       // that were exchanged
  std::vector<double> seconds;  // by wire, of one exchange: the same numbers on every rank

  // What each of so many ranks sent a second in fp32, bytes.
  double rate(int ranks) const;
};

// Collective over `group`: zeros are exchanged as GradReducer does it, encoding and adding included, and with what
// error feedback reads and writes where a wire is not exact. wires: fp32 first. Of each the median of kTrialRounds
// rounds, of which each counts as the slowest rank took it, after one that opens connections.
//
// Takes memory for up to three times `elems` floats and the messages, and gives it back. Where that many would take
// longer than kMostTrialSeconds in fp32, fewer are exchanged. elems: at least one.
WireTrial try_wires(Communicator& group, const NodeGroups* nodes, const kernels::Exec& exec,
                    std::span<const GradWire> wires, std::int64_t elems);

constexpr int kTrialRounds = 5;
constexpr double kMostTrialSeconds = 0.25;

}  // namespace qat::dist
