// The training loop: plan, step, account, evaluate, save, until the last step or a reason to stop.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "src/base/log.h"
#include "src/checkpoint/reader.h"
#include "src/checkpoint/train_state.h"
#include "src/data/token_source.h"
#include "src/eval/width_eval.h"
#include "src/model/gpt2.h"
#include "src/report/metrics_writer.h"
#include "src/report/progress.h"
#include "src/schedule/bitops.h"
#include "src/train/coordinator.h"
#include "src/train/step_runner.h"
#include "src/train/trainer_options.h"

namespace qat {

// What the loop works with; all of it outlives the trainer. The model has its initial values.
struct TrainerParts {
  Gpt2& model;
  const LoraConfig& lora;
  const TokenSource& train_tokens;
  const TokenSource& val_tokens;
  dist::Communicator& comm;
  Logger& log;
  Progress* progress = nullptr;              // rank 0's; null: none
  const std::atomic<int>* signal = nullptr;  // a signal this process has received, 0: none; may be null
  // Told after every step and checkpoint: steps completed, and the newest checkpoint's folder ("": none).
  std::function<void(std::int64_t steps, const std::string& checkpoint)> on_progress;
};

struct TrainResult {
  bool finished = false;  // all steps done, and the final report written
  int signal = 0;         // why not: the signal that stopped it after a checkpoint
  std::string table;      // rank 0, finished: the final table as text
};

class Trainer {
 public:
  Trainer(const TrainerOptions& options, const TrainerParts& parts);

  // Collective. Resumes, trains, and writes run.dir/{metrics.jsonl,eval.jsonl,checkpoints/,report.md,report.json}.
  // Throws Error(kDiverged) on every rank, after a checkpoint, when train.max_skips non-finite steps came in a row.
  TrainResult run();

  StepRunner& runner() { return runner_; }
  const TrainState& state() const { return state_; }

 private:
  bool is_root() const { return parts_.comm.rank() == 0; }
  void resume();
  std::unique_ptr<CheckpointReader> find_checkpoint();  // rank 0
  void load(const CheckpointReader* reader);
  std::string existing_report();  // of a run that is finished already; collective
  int train();                    // the signal that stopped it, or 0
  void account(const dist::StepPlan& plan, const StepOutcome& outcome, const PrecisionMap& precision, double seconds);
  void stop_if_diverged();
  std::vector<WidthScore> evaluate(const std::vector<int>& widths);
  void calibrate_for(const PrecisionMap& precision);
  void save();
  std::string write_report();

  TrainerOptions options_;
  TrainerParts parts_;
  Sampler sampler_;
  Coordinator coordinator_;
  StepRunner runner_;
  TrainState state_;
  BitopsTotal bitops_;
  std::int64_t saved_step_ = -1;  // of the newest checkpoint
  std::string checkpoint_;        // its folder
  std::optional<MetricsWriter> metrics_;
  std::optional<JsonLinesFile> evaluations_;
};

}  // namespace qat
