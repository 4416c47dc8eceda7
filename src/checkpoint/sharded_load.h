// Loading the part of a checkpoint that a rank owns, whatever number of ranks wrote it.
#pragma once

#include <functional>
#include <span>

#include "dist/comm/communicator.h"
#include "src/checkpoint/pieces.h"
#include "src/checkpoint/reader.h"

namespace qat {

// Fills the targets, on either device. Memory beside them: some MiB. on_block: called now and then.
void load_pieces(const CheckpointReader& reader, std::span<const PieceTarget> targets,
                 const std::function<void()>& on_block = {});

// Collective. The same on every rank, each with its own targets: rank 0 from `reader`, which is null elsewhere, and the
// others from the folder of the same path, which they must see. Throws AgreedError(kCheckpoint).
void load_sharded(const CheckpointReader* reader, std::span<const PieceTarget> targets, dist::Communicator& comm);

}  // namespace qat
