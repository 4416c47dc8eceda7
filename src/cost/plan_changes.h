// What would make a run fit that does not: changes of its configuration, and of the ranks that it gets.
#pragma once

#include <vector>

#include "src/cost/run_plan.h"

namespace qat {

// A rank of the run, for the model of memory; with stages, what one of a stage is, whatever its part.
RankLayout layout_of(const RunConfig& config, const RankPlace& place);

// Of one rank with that part of the model: its GPU's memory or, on CPUs, main memory.
MemoryEstimate device_memory_needed(const RunConfig& config, const RankLayout& layout);

// What there is of it.
std::int64_t memory_of_rank(const PlanMachine& machine, const RankLayout& layout);

// At most `most`: first what leaves the result alone (smaller passes, recomputation, more stages, more ranks), then
// what does not. Each was tried in the model of memory, with a tenth to spare.
std::vector<MemoryChange> plan_changes(const RunConfig& config, const PlanMachine& machine, std::size_t most = 3);

}  // namespace qat
