// How a run's pipeline is laid out, for people.
#pragma once

#include <string>
#include <vector>

#include "src/cost/stage_plan.h"
#include "src/memory/memory_model.h"

namespace qat {

// A line for each stage: its blocks, its parameters, its share of a micro-batch's time and the memory of one of its
// ranks. layout: of a rank; ranks are those of a stage. Where a GPU holds the model, its memory.
std::vector<std::string> describe_stages(const RunConfig& config, const RankLayout& layout, const ModelTimes& times,
                                         const dist::StageCut& cut);

// "blocks 0-2 and 6-8, embeddings", "the whole model".
std::string stage_contents(const StagePart& part);

}  // namespace qat
