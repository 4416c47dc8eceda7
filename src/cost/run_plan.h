// A run on paper: what each rank has, whether it fits, how long a step takes, and what the run writes. Nothing is
// opened: no model, device, token file or communicator.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/config/run_config.h"
#include "src/cost/step_time.h"
#include "src/memory/host_memory.h"
#include "src/memory/memory_advice.h"

namespace qat {

// Where the run is to be.
struct PlanMachine {
  RankPlace place;
  std::string device;                    // "H100", "CPU"
  std::int64_t memory_bytes = kNoLimit;  // of a GPU or, of CPUs, of a node, which its ranks share
};

// What is known of the run's data; nothing where its files are not here.
struct PlanData {
  std::optional<std::int64_t> train_tokens, val_tokens;
  std::int64_t windows_per_epoch = 1;  // only schedules by epochs ask
};

struct PlannedStage {
  StagePart part;
  ParameterCount parameters;
  double time_share = 1.0;
  MemoryEstimate memory;  // of one of its ranks, on its device
};

// What a width that training or evaluation visits takes.
struct PlannedWidth {
  int bits = 32;
  double passes = 0.0;              // that train at it, a step, on average
  double pass_s = 0.0;              // one micro-batch through the whole model; 0: no pass trains at it
  std::int64_t own_bytes = 0;       // parameters that it has for itself, whole
  std::int64_t kept_bytes = 0;      // of them, that a rank has all the time
  std::int64_t moments_bytes = 0;   // AdamW's, of a rank's shards of them
  std::int64_t prepared_bytes = 0;  // weights as products read them: codes and scales, or values
};

struct RunPlan {
  PlanMachine machine;
  int replicas = 1;
  WireFormatName wire = WireFormatName::kFp32;  // of gradients: comm.wire, or what auto would be
  std::int64_t micro_batches = 1;               // of a replica, a step
  std::vector<PlannedStage> stages;
  MemoryEstimate host_memory;         // of a rank
  std::int64_t available = kNoLimit;  // of the device's memory, to a rank
  std::vector<PlannedWidth> widths;
  StepTime step;
  double tokens_per_s = 0.0;
  double tokens = 0.0;                 // that the run trains on
  std::optional<double> epochs;        // passes over data.train
  double training_s = 0.0;             // of all steps
  std::optional<double> evaluation_s;  // of all evaluations; nothing: how much text there is is not known
  std::int64_t evaluations = 0;
  ParameterCount parameters;  // of the whole model
  std::int64_t checkpoint_bytes = 0;
  std::int64_t checkpoints_kept = 0;  // folders at once, at most; 0: all of them
  std::string schedule;               // "3x4,4x2,..." (render_schedule), or what every step trains
  std::vector<MemoryChange> changes;  // that would make it fit, if it does not

  const PlannedStage& worst() const;
  bool fits() const { return worst().memory.total() <= available; }
};

// The configuration has been checked against the ranks (validate_parallel).
RunPlan make_run_plan(const RunConfig& config, const PlanMachine& machine, const PlanData& data);

// For people, about a screen.
std::string to_text(const RunPlan& plan, const RunConfig& config);
// The same for programs: bytes and seconds.
Value to_value(const RunPlan& plan, const RunConfig& config);

}  // namespace qat
