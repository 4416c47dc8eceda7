#pragma once

#include "dist/grid/process_grid.h"
#include "src/model/gpt2.h"

namespace qat {

// Every rank of a stage holds the same parameters, to the bit. Collective; where they differ (a memory error, a rank
// that computed something else) throws AgreedError(kSelfCheck), which names the ranks that stand apart from the
// majority, and their hosts' numbers. A checksum finds any single flipped bit. Reads the parameters once.
void check_replicas(const Gpt2& model, const dist::Grid& grid);

}  // namespace qat
