// A training run as a checkpoint: parameters, optimizer shards, calibrated ranges and counters. Tensors are written
// whole, so that a checkpoint loads on any number of ranks.
#pragma once

#include <filesystem>
#include <string>

#include "dist/comm/communicator.h"
#include "src/checkpoint/reader.h"
#include "src/checkpoint/train_state.h"
#include "src/model/gpt2.h"
#include "src/optim/sharded_adamw.h"

namespace qat {

// Collective. Rank 0 writes below `root` and returns when the checkpoint is durable; a failure there is thrown on every
// rank. Returns the folder.
std::filesystem::path save_run(const std::filesystem::path& root, const TrainState& state, Gpt2& model,
                               ShardedAdamW& optimizer, dist::Communicator& comm);

// Collective: rank 0 reads and broadcasts, so that only it needs the file system. `reader` is null on other ranks.
// Parameters and calibrated ranges; throws Error(kCheckpoint) on every rank if a tensor is missing or of another shape.
// With `base_only`, adapters that the file lacks keep their values (a base trained elsewhere).
void load_model(const CheckpointReader* reader, Gpt2& model, dist::Communicator& comm, bool base_only = false);
void load_optimizer(const CheckpointReader* reader, const Gpt2& model, ShardedAdamW& optimizer,
                    dist::Communicator& comm);
TrainState load_state(const CheckpointReader* reader, dist::Communicator& comm);

}  // namespace qat
