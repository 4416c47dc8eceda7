// What every checkpoint carries beside the model and its optimizer: scalars, as attributes of the group /state, and the
// list of token files, which may be long, as the bytes of a tensor there.
#pragma once

#include <cstdint>
#include <string>

#include "src/checkpoint/reader.h"
#include "src/checkpoint/writer.h"

namespace qat {

// Version 1 counted adapters in bitops_at_full, though a step at 32 bits has none; whoever resumes counts anew.
inline constexpr std::int64_t kTrainStateVersion = 2;

struct TrainState {
  std::int64_t version = kTrainStateVersion;  // of the file that it comes from
  std::int64_t step = 0;                      // optimizer steps finished, skipped ones included
  std::uint64_t seed = 0;             // run.seed: batches, dropout and stochastic rounding follow from (seed, step)
  std::uint64_t config_hash = 0;      // of the effective configuration, as compared between ranks
  std::string config_json;            // that configuration: what another one is compared with on resume
  std::int64_t world_size = 1;        // ranks that wrote it: bitwise continuation needs as many
  std::int64_t consumed_samples = 0;  // sequences, over all ranks
  std::int64_t consumed_tokens = 0;
  std::int64_t skips_in_row = 0;  // non-finite steps since the last good one
  std::int64_t skips_total = 0;
  double bitops = 0.0;          // spent so far
  double bitops_at_full = 0.0;  // what the same steps would have cost at 32 bits
  // The tokens it was trained and evaluated on (src/data/data_identity.h); empty in checkpoints of older programs.
  std::string data_json;

  // Not in checkpoints of earlier versions.
  std::int64_t branch_step = -1;       // the checkpoint that run.resume named, which this run stands on; -1: none
  std::int64_t healthy_step = -1;      // of the newest checkpoint whose parameters gave a plausible loss; -1: not known
  std::int64_t evaluated_step = -1;    // of the last evaluation during the run; -1: none
  std::int64_t best_step = -1;         // of the evaluation with the lowest held-out loss; -1: none
  double best_loss = 0.0;              // that loss: mean over the evaluated widths, nats a token
  std::int64_t stale_evaluations = 0;  // evaluations since then
  std::string loss_statistics;         // LossMonitor's
  std::string precision_usage;         // PrecisionUsage's
  std::string range_test;              // its result (src/schedule/range_test.h); empty: none was made
  std::string wire;                    // how gradients travelled, as comm.wire names it; empty: not decided

  bool operator==(const TrainState&) const = default;
};

// Throws Error(kInternal) when state.step is not the step that the checkpoint is written for.
void save_train_state(CheckpointWriter& writer, const TrainState& state);

// Throws Error(kCheckpoint) when an attribute is missing, or was written by a newer version of this program.
TrainState load_train_state(const CheckpointReader& reader);

// As text, to be handed to other ranks; every field survives, exactly.
std::string to_text(const TrainState& state);
TrainState train_state_from_text(const std::string& text);

}  // namespace qat
