// The part of a model that a stage of a pipeline has.
#pragma once

#include "dist/pipeline/stage_cut.h"
#include "src/model/gpt2.h"

namespace qat {

// cut: of one piece a stage (dist/pipeline/stage_cut.h). Embeddings go with the first stage, last norm and head with
// the last.
StageRange stage_range(const dist::StageCut& cut, int stage);

}  // namespace qat
