// What decides `comm.wire: auto`, beside the time that an exchange takes: for a run, which measures that, and for a
// plan of one, which has rates of the links instead.
#pragma once

#include <vector>

#include "dist/grad/wire_choice.h"
#include "src/cost/step_time.h"

namespace qat {

// The formats to choose from, fp32 first. Codes of 8 bits only with error feedback: nobody has shown that they lose
// nothing without it.
std::vector<WireFormatName> wire_candidates(const CommConfig& comm);

// All but the times of exchanges. With comm.overlap a GPU's may run beside the backward half of an update's last pass.
dist::WireQuestion wire_question(const CommConfig& comm, const StepTime& step, bool cuda, bool one_host);

// What a run on such links would take; any other value of comm.wire as it is. Stages send fp32.
WireFormatName planned_wire(const RunConfig& config, const RankPlace& place, std::int64_t windows_per_epoch);

}  // namespace qat
