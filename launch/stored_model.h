// A checkpoint's model on this process alone: for commands whose work is rank 0's.
#pragma once

#include <memory>
#include <string>

#include "src/checkpoint/reader.h"
#include "src/checkpoint/train_state.h"
#include "src/config/run_config.h"
#include "src/model/gpt2.h"

namespace qat::launch {

struct StoredModel {
  CheckpointReader reader;
  TrainState state;
  RunConfig config;

  std::string folder() const { return reader.info().folder.string(); }
};

// What `path` means (open_checkpoint); older checkpoints that are taken in its place are warned of.
StoredModel open_stored_model(const std::string& path, bool strict);

// Its parameters, and the calibrated ranges that training had in force, in fp32 on the CPU. `stored` outlives it.
std::unique_ptr<Gpt2> load_stored_model(const StoredModel& stored);

// Throws Error(kConfig), naming the command, for a model that answers questions: it has no output projection.
void require_language_model(const StoredModel& stored, const std::string& command);

// Throws Error(kConfig), naming the option, for bits that are no width of the weights, or if a pass at them would need
// adapters or norms that no width has.
void require_slots(const RunConfig& config, int bits, const std::string& option);

}  // namespace qat::launch
