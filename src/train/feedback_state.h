// What the ranks' encoded gradients did not carry yet, in checkpoints: "/sync/feedback/<rank>/<parameter>", whole, by
// the rank that has it. The rank is that among the replicas: of a grid of stages, each has the parameters of its own.
#pragma once

#include <vector>

#include "dist/grid/process_grid.h"
#include "src/checkpoint/pieces.h"
#include "src/checkpoint/reader.h"
#include "src/model/gpt2.h"
#include "src/train/gradient_sync.h"

namespace qat {

// This rank's, of its stage's parameters; none where nothing is kept. The pieces point into what `gradients` keeps.
std::vector<TensorPiece> feedback_to_save(const ParameterStore& store, GradientSync& gradients, int rank);

// Collective; `reader` is rank 0's, null elsewhere. With as many replicas as wrote it every rank gets its own back, bit
// for bit, whatever the stages. Otherwise replica r gets the sum of those of r, r + n, r + 2n, ... of the checkpoint,
// so that nothing is lost. False: the checkpoint has some, and this run keeps none.
bool load_feedback(const CheckpointReader* reader, const Gpt2& model, GradientSync& gradients, const dist::Grid& grid);

}  // namespace qat
