// One check for the three doors through which a checkpoint's parameters come into a model: resuming, evaluating, and
// starting a new run from them. A model is the same only if its sizes and switches are (n_head shows in no tensor), and
// if every parameter of it is in the file, with its shape, and nothing of the file's model is left unread.
#pragma once

#include <string>
#include <vector>

#include "src/checkpoint/reader.h"
#include "src/model/parameter_store.h"

namespace qat {

enum class LoadFor {
  kResume,         // the same run: optimizer state must fit too
  kEvaluation,     // the same model
  kInitialValues,  // the same base: adapters may be new, or left out
};

// Rank 0's work (the reader is there). Compares the configuration kept in the checkpoint with `current_json`, and its
// tensors with `parameters`; null: only the configurations, before a model of the wrong size is made. Throws
// Error(kCheckpoint) that lists what differs and how to mend it. Returns lines for the log: what is loaded otherwise
// than it was saved.
std::vector<std::string> check_structure(const CheckpointReader& checkpoint, const std::string& current_json,
                                         const ParameterStore* parameters, LoadFor purpose);

// Which tensor of the checkpoint a parameter is loaded from; empty: none. Its own; or for initial values, where it is a
// width's own, that of all widths or of unquantized passes.
std::string stored_name(const CheckpointReader& checkpoint, const ParameterInfo& info, LoadFor purpose);

// Whether calibrated activation ranges of the checkpoint mean the same under `current_json`; what differs is added to
// `notes`.
bool ranges_fit(const CheckpointReader& checkpoint, const std::string& current_json, std::vector<std::string>& notes);
// Whether those that its evaluation had of its own (src/train/range_state.h) are the ones that an evaluation under
// `current_json` would take.
bool evaluation_ranges_fit(const CheckpointReader& checkpoint, const std::string& current_json);

}  // namespace qat
