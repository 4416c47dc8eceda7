// A training run as a checkpoint: parameters, optimizer shards, calibrated ranges and counters. Tensors are written
// whole, so that a checkpoint loads on any number of ranks.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "src/checkpoint/reader.h"
#include "src/checkpoint/train_state.h"
#include "src/eval/width_eval.h"
#include "src/model/gpt2.h"
#include "src/optim/sharded_adamw.h"
#include "src/train/structure_check.h"

namespace qat {

// Collective. Rank 0 writes below `root` and returns when the checkpoint is durable; a failure there is thrown on every
// rank. `ranges`: those that evaluation has of its own at this very state of training. Returns the folder.
std::filesystem::path save_run(const std::filesystem::path& root, const TrainState& state, Gpt2& model,
                               ShardedAdamW& optimizer, dist::Communicator& comm, const EvaluationRanges& ranges = {});

// Collective: rank 0 reads and broadcasts, so that only it needs the file system. `reader` is null on other ranks.
// Parameters, and training's calibrated ranges unless they are kInitialValues; throws Error(kCheckpoint) on every rank
// if check_structure refuses the checkpoint for a model of `config_json`. Adapters that it may lack keep their values.
// Returns rank 0's lines for the log: what is loaded otherwise than it was saved.
std::vector<std::string> load_model(const CheckpointReader* reader, Gpt2& model, dist::Communicator& comm,
                                    LoadFor purpose, const std::string& config_json);
void load_optimizer(const CheckpointReader* reader, const Gpt2& model, ShardedAdamW& optimizer,
                    dist::Communicator& comm);
TrainState load_state(const CheckpointReader* reader, dist::Communicator& comm);

}  // namespace qat
