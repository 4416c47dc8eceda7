// The part of a model that a stage of a pipeline has.
#pragma once

#include "dist/pipeline/stage_cut.h"
#include "src/model/stage_range.h"

namespace qat {

// Of a model of so many blocks. cut: the pieces of all chunks of `stages` stages (dist/pipeline/stage_cut.h), of which
// piece i is chunk i / stages of stage i % stages.
StageRange stage_range(const dist::StageCut& cut, int stage, int stages, std::int64_t blocks);

}  // namespace qat
