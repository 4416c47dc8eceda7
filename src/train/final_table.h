// The table at the end of a run, and whether one that is there already still says what it would.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "src/checkpoint/train_state.h"
#include "src/eval/width_eval.h"
#include "src/model/gpt2.h"
#include "src/schedule/bitops.h"
#include "src/train/trainer_options.h"

namespace qat {

// What a table depends on beside the parameters: the evaluation's settings and what is held out, as JSON text.
std::string evaluation_settings(const TrainerOptions& options, const HeldOutSet& held_out);

// What one evaluation found, after `step` steps: a line for the log, and one for eval.jsonl.
std::string evaluation_line(const WidthScore& score, std::int64_t step);
Value evaluation_record(const WidthScore& score, std::int64_t step);

// Writes report.md and report.json below run.dir; the table for the console. One rank's work.
std::string write_final_table(const TrainerOptions& options, const Gpt2& model, const LoraConfig& lora,
                              const TrainState& state, const BitopsTotal& bitops, const std::vector<WidthScore>& scores,
                              const std::string& wire, const std::string& checkpoint, const std::string& settings);

struct ExistingTable {
  std::string text;   // report.md; empty: there is none for this step
  std::string stale;  // why it does not stand: what has changed; empty: it does
};
// The table that run.dir holds for the run's step.
ExistingTable existing_table(const std::filesystem::path& run_dir, std::int64_t step, const std::string& settings);

}  // namespace qat
