// A run's parameters and optimizer state as a checkpoint's pieces: what owned_state.h lists, by its names there.
#pragma once

#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "src/checkpoint/pieces.h"
#include "src/model/gpt2.h"
#include "src/optim/sharded_adamw.h"

namespace qat {

std::string parameter_name(const ParameterInfo& info);                   // "/model/transformer.wte.weight"
std::string moment_name(const char* moment, const ParameterInfo& info);  // "/optimizer/exp_avg/..."
std::vector<int> trainable_ids(const Gpt2& model);                       // the optimizer's order

// What this rank writes, so that all ranks together write everything once: trained parameters and their moments by
// whoever owns the moments, frozen ones dealt out evenly over `data`, the ranks of a stage. The pieces point into the
// model's and the optimizer's memory.
std::vector<TensorPiece> pieces_to_save(const Gpt2& model, ShardedAdamW& optimizer, const dist::Communicator& data);

// Where this rank's part of the moments goes.
std::vector<PieceTarget> moments_to_load(const Gpt2& model, ShardedAdamW& optimizer);

}  // namespace qat
