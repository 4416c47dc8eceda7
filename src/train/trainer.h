// The training loop: plan, step, account, evaluate, save, until the last step or a reason to stop.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dist/control/stop_poll.h"
#include "dist/grid/process_grid.h"
#include "dist/watch/progress_board.h"
#include "dist/watch/straggler.h"
#include "src/base/log.h"
#include "src/checkpoint/reader.h"
#include "src/checkpoint/train_state.h"
#include "src/data/data_identity.h"
#include "src/data/sample_source.h"
#include "src/eval/width_eval.h"
#include "src/model/gpt2.h"
#include "src/report/event_file.h"
#include "src/report/metrics_writer.h"
#include "src/report/progress.h"
#include "src/schedule/bitops.h"
#include "src/schedule/range_test.h"
#include "src/train/calibrator.h"
#include "src/train/checkpoint_keeper.h"
#include "src/train/configured_maps.h"
#include "src/train/coordinator.h"
#include "src/train/loss_monitor.h"
#include "src/train/precision_usage.h"
#include "src/train/running_ranges.h"
#include "src/train/step_runner.h"
#include "src/train/trainer_options.h"

namespace qat {

// What the loop works with; all of it outlives the trainer. The model has its initial values.
struct TrainerParts {
  Gpt2& model;
  const SampleSource& samples;  // what it trains on
  const HeldOutSet& held_out;   // what it is evaluated on
  dist::Grid grid;              // of which the model is this rank's stage
  Logger& log;
  Progress* progress = nullptr;              // rank 0's; null: none
  double product_peak = 0.0;                 // measured_product_peak() of rank 0's device; 0: not measured
  const std::atomic<int>* signal = nullptr;  // a signal this process has received, 0: none; may be null
  // Told after every step and checkpoint: steps completed, and the newest checkpoint's folder ("": none).
  std::function<void(std::int64_t steps, const std::string& checkpoint)> on_progress;
  dist::ProgressBoard* board = nullptr;  // where the loop marks what it is doing; null: nobody watches
  std::vector<std::string> hosts;        // of the ranks, for messages; may be empty
};

struct TrainResult {
  bool finished = false;  // all steps done (or training ended early), and the final report written
  int signal = 0;         // why not: the signal that stopped it
  std::string unsaved{};  // stopped: why its last checkpoint could not be written (checkpoint.on_error); empty: it was
  std::string table;      // rank 0, finished: the final table as text
};

struct RangeTestRun {
  std::optional<RangeTestResult> result;
  int signal = 0;  // why there is none: the signal that stopped it
};

class Trainer {
 public:
  Trainer(const TrainerOptions& options, const TrainerParts& parts);

  // Collective. Resumes, trains, and writes run.dir/{metrics.jsonl,eval.jsonl,checkpoints/,report.md,report.json}.
  // Throws on every rank: Error(kDiverged) when train.max_skips skipped steps came in a row, with the newest healthy
  // checkpoint in place; Error(kSelfCheck) when the ranks' parameters differ; Error(kCheckpoint), after a checkpoint,
  // when the disk takes no more records.
  TrainResult run();

  // Collective, in place of run(): only the range test, at every width of quant.widths below 32, of the model as it is.
  // Writes run.dir/range_test.json.
  RangeTestRun run_range_test();

  StepRunner& runner() { return runner_; }
  const TrainState& state() const { return state_; }

 private:
  dist::Communicator& world() const { return parts_.grid.world(); }
  bool is_root() const { return world().rank() == 0; }
  int requested_stop() const;
  bool is_complete() const;  // nothing is left to train
  void resume();
  void load(const CheckpointReader* reader);
  void identify_state();
  void open_records();
  DataIdentity data_identity() const { return {.train = parts_.samples.identity(), .val = parts_.held_out.identity()}; }
  void check_data();              // against the checkpoint's
  std::string existing_report();  // of a run that is finished already; collective

  TrainResult run_to_end();
  int train();  // why it stopped before its end, or 0
  // The coordinator, once the bounds of its schedule are known: the checkpoint's, or measured now. Why to stop, or 0.
  int settle_bounds();
  // Leaves everything as it was. Nothing if the run is to stop.
  std::optional<RangeTestResult> test_range(const std::vector<int>& widths);
  std::optional<WidthTrial> try_width(int bits);
  StepOutcome run_fitting(const std::function<StepOutcome(const StepOutcome& so_far)>& run);
  std::vector<PrecisionMap> precision_of(std::span<const dist::PlannedWidths> planned) const;
  StepOutcome run_step(const dist::StepPlan& plan, const std::vector<PrecisionMap>& maps);
  void write_timeline(const StageTimeline& mine);
  void check_wire(double error);
  std::string wire_text() const;  // for the report; empty: nothing travelled
  void use_smaller_passes(const std::vector<int>& ranks);
  int after_step(const dist::StepPlan& plan);
  int stop_for(int reason);
  TrainResult stopped_result(int reason);
  void account(const dist::StepPlan& plan, const StepOutcome& outcome, const std::vector<PrecisionMap>& maps,
               double seconds);
  void warn_of_skips(const dist::StepPlan& plan, const StepOutcome& outcome);
  bool is_spike(const dist::StepPlan& plan, const dist::UpdatePlan& update, double loss) const;
  bool evaluation_pending() const;  // the run stopped between a step and its evaluation
  void judge(const dist::StepPlan& plan, const StepOutcome& outcome);
  // products: operations of the step's products, over all ranks.
  void write_metrics(const dist::StepPlan& plan, const StepOutcome& outcome, double bitops, double products,
                     double seconds);
  void show_progress(const dist::StepPlan& plan, const StepOutcome& outcome, double products, double seconds);
  void stop_if_diverged();
  [[noreturn]] void diverge(const std::string& what);
  [[noreturn]] void diverge_in_update();
  void record_calibration(const CalibrationReport& report);
  void record_evaluation(const WidthScore& score);
  // After a step, with the widths that it had.
  void look_at_layers(const dist::StepPlan& plan, const std::vector<PrecisionMap>& maps);
  void record_layers(const dist::StepPlan& plan, const std::vector<PrecisionMap>& maps);
  void record_histograms(const dist::StepPlan& plan, const std::vector<PrecisionMap>& maps);
  // Writes to the run's records; a failure is kept, and ends the run at the next chance.
  void record(const std::function<void()>& write);

  // Nothing when the run is to stop.
  std::optional<std::vector<WidthScore>> evaluate(const std::vector<EvaluatedAt>& widths);
  int evaluate_during_run();
  // Begins a checkpoint, which is written beside the steps that follow.
  void save();
  void look_after_save();
  void finish_save();
  void save_what_failed();            // the last checkpoint once more, if it could not be written
  void require_last_checkpoint();     // of a run that is finished otherwise
  void finish_save_whatever_comes();  // a failure is only a warning: there is something worse to report
  void tell_progress() const;
  std::string write_report(const std::vector<WidthScore>& scores);

  TrainerOptions options_;
  TrainerParts parts_;
  std::vector<ConfiguredMap> maps_;         // of quant.maps
  std::optional<Coordinator> coordinator_;  // once it is known where the run is taken up
  StepRunner runner_;
  CheckpointKeeper keeper_;
  dist::StopPoll poll_;
  Calibrator calibrator_;
  RunningRanges running_ranges_;
  TrainState state_;
  TrainState applied_;           // as it was after the last step that changed the parameters
  bool skip_plausible_ = false;  // a step skipped since then had a plausible loss: those parameters are healthy
  bool save_due_ = false;        // a checkpoint fell on a skipped step
  LossMonitor losses_;
  PrecisionUsage usage_;
  WireReport wire_;                                    // of this rank, since this program started
  std::int64_t wire_updates_ = 0;                      // in that
  std::optional<PrecisionUsage::Change> loss_change_;  // of the newest step's last update
  void look_for_stragglers(std::span<const double> own_seconds);
  std::vector<dist::StragglerWindow> stragglers_;  // of each stage: only equal work is compared
  BitopsTotal bitops_;
  std::optional<MetricsWriter> metrics_;
  std::optional<EventFiles> events_;     // where TensorBoard is wanted
  std::optional<JsonLinesFile> layers_;  // where report.layers_every is
  std::optional<JsonLinesFile> evaluations_;
  std::optional<JsonLinesFile> calibrations_;  // where inputs have ranges of their own
  std::string records_failure_;                // rank 0: why a record could not be written; empty: all were
};

}  // namespace qat
