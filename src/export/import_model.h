// A model of another program as a checkpoint: parameters, and a state of training without a step.
#pragma once

#include <filesystem>

#include "src/checkpoint/catalog.h"
#include "src/checkpoint/train_state.h"
#include "src/export/hf_model.h"

namespace qat {

// Whether a checkpoint of an imported model may be put into `root` (<root>/step_00000000): throws Error(kConfig) that
// names it as `key` where it is no folder, or has anything in it already; with `overwrite`, anything but what an
// earlier import left there. Makes the folder.
void prepare_import_folder(const std::filesystem::path& root, std::string_view key, bool overwrite);

// Writes it; state.step is 0, and there is no optimizer in it. Memory: the largest transposed tensor, and some MiB.
CheckpointInfo write_imported(HfModel& model, const TrainState& state, const std::filesystem::path& root);

}  // namespace qat
