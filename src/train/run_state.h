// A training run as a checkpoint: parameters, optimizer state, calibrated ranges and counters. Every rank writes what
// it owns (src/train/run_pieces.h); a checkpoint loads on any number of ranks, whatever stages they are.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dist/grid/process_grid.h"
#include "src/checkpoint/reader.h"
#include "src/checkpoint/sharded_save.h"
#include "src/checkpoint/train_state.h"
#include "src/eval/width_eval.h"
#include "src/model/gpt2.h"
#include "src/optim/sharded_adamw.h"
#include "src/train/gradient_sync.h"
#include "src/train/structure_check.h"

namespace qat {

// Collective: begins a checkpoint below `root`, which all ranks see. Everything small (`state`, ranges, counts of
// updates) is written when this returns; parameters and moments are what the parts of the returned work read and write.
// A failure of any rank is thrown on every rank. `ranges`: those that evaluation has of its own at this very state of
// training. model: this rank's stage of the grid, here and below. gradients: what its encoded sums did not carry is
// saved, too.
std::unique_ptr<ShardedSave> begin_save(const std::filesystem::path& root, const TrainState& state, const Gpt2& model,
                                        ShardedAdamW& optimizer, const dist::Grid& grid,
                                        const EvaluationRanges& ranges = {}, GradientSync* gradients = nullptr);
// The same to its end: the checkpoint is durable when this returns its folder.
std::filesystem::path save_run(const std::filesystem::path& root, const TrainState& state, const Gpt2& model,
                               ShardedAdamW& optimizer, const dist::Grid& grid, const EvaluationRanges& ranges = {},
                               GradientSync* gradients = nullptr);

// Collective, as the following: `reader` is rank 0's, and null on other ranks. Rank 0 reads and broadcasts, some MiB at
// a time, so that only it needs the checkpoint's file system.
// Parameters, and training's calibrated ranges unless they are kInitialValues; throws Error(kCheckpoint) on every rank
// if check_structure refuses the checkpoint for a model of `config_json`. Adapters that it may lack keep their values.
// Returns rank 0's lines for the log: what is loaded otherwise than it was saved.
std::vector<std::string> load_model(const CheckpointReader* reader, Gpt2& model, const dist::Grid& grid,
                                    LoadFor purpose, const std::string& config_json);
// Where parameters come from that are not a checkpoint's: `read` fills elements [first, first + out.size()).
struct ParameterSource {
  std::function<bool(const ParameterInfo&)> has;
  std::function<void(const ParameterInfo&, std::int64_t first, std::span<float> out)> read;
};
// Those parameters that the source has; the others keep their values. `source` is rank 0's, as above.
void load_parameters(const ParameterSource* source, Gpt2& model, const dist::Grid& grid);
// Every rank reads its own part of the moments, from the checkpoint's folder, which it must see.
void load_optimizer(const CheckpointReader* reader, const Gpt2& model, ShardedAdamW& optimizer, const dist::Grid& grid);
TrainState load_state(const CheckpointReader* reader, dist::Communicator& comm);

}  // namespace qat
