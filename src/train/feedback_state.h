// What the ranks' encoded gradients did not carry yet, in checkpoints: "/sync/feedback/<rank>/<parameter>", whole, by
// the rank that has it.
#pragma once

#include <vector>

#include "dist/comm/communicator.h"
#include "src/checkpoint/pieces.h"
#include "src/checkpoint/reader.h"
#include "src/model/parameter_store.h"
#include "src/train/gradient_sync.h"

namespace qat {

// This rank's; none where nothing is kept. The pieces point into what `gradients` keeps.
std::vector<TensorPiece> feedback_to_save(const ParameterStore& store, GradientSync& gradients, int rank);

// Collective; `reader` is rank 0's, null elsewhere. With as many ranks as wrote it every rank gets its own back, bit
// for bit. Otherwise rank r gets the sum of those of ranks r, r + n, r + 2n, ... of the checkpoint, so that nothing is
// lost. False: the checkpoint has some, and this run keeps none.
bool load_feedback(const CheckpointReader* reader, const ParameterStore& store, GradientSync& gradients,
                   dist::Communicator& comm);

}  // namespace qat
