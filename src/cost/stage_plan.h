// The stages of a run's pipeline: where it is cut, what each stage holds and how long it takes, and the whole step on
// paper.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/pipeline/simulator.h"
#include "dist/pipeline/stage_cut.h"
#include "src/config/run_config.h"
#include "src/cost/pass_time.h"
#include "src/memory/pass_shape.h"

namespace qat {

// The mean over the run's training passes: every width of its recipe, or every map, as often as the others.
ModelTimes run_times(const RunConfig& config, bool cuda, const DeviceRates& rates);

// parallel.cut, or if that is empty the cut by cost (dist/pipeline/stage_cut.h). The configuration has been checked.
dist::StageCut run_cut(const RunConfig& config, const ModelTimes& times);

// What a stage holds, with as many passes in flight as the schedule needs for so many micro-batches of a replica.
StagePart stage_part(const RunConfig& config, const dist::StageCut& cut, int stage, std::int64_t micro_batches);

// Each stage's share of a micro-batch's time: [stages], together 1.
std::vector<double> stage_shares(const RunConfig& config, const ModelTimes& times, const dist::StageCut& cut);

// A pass over so many micro-batches of a replica as the stages carry it out (src/train/step_stages.cc), with these
// times, transfers taking none: for dist::simulate. trains: else it goes forward only.
dist::SimulatedPipeline planned_pipeline(const RunConfig& config, const ModelTimes& times, const dist::StageCut& cut,
                                         std::int64_t micro_batches, bool trains = true);

}  // namespace qat
