// The checkpoints of one run folder: which of them a run goes on from, when one counts, which of them stay.
//
// A checkpoint is healthy once its parameters have given a plausible loss: the step after it. Those that come later are
// only hoped to be, so the newest healthy one is never removed for them, and a run that comes apart puts them aside.
//
// A save runs beside training (src/checkpoint/background_save.h), one at a time:
//
//   keeper.begin_save(state);             // between two steps
//   ... keeper.wait_until_read();         // in the steps that follow, before parameters change
//   ... keeper.look_after_save();         // between those steps
//   keeper.finish_save();                 // where the run ends
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "dist/grid/process_grid.h"
#include "src/base/log.h"
#include "src/checkpoint/checkpoint_config.h"
#include "src/checkpoint/reader.h"
#include "src/checkpoint/train_state.h"
#include "src/eval/width_eval.h"
#include "src/model/gpt2.h"
#include "src/optim/sharded_adamw.h"
#include "src/train/gradient_sync.h"

namespace qat {

class CheckpointKeeper {
 public:
  struct Aftermath;  // of a save: of the inside alone

  // run_dir/checkpoints is its folder. All of the arguments outlive it.
  CheckpointKeeper(const std::string& run_dir, const CheckpointConfig& config, Gpt2& model, ShardedAdamW& optimizer,
                   GradientSync& gradients, const dist::Grid& grid, Logger& log);
  ~CheckpointKeeper();

  // Told of each checkpoint as soon as it is complete, whatever becomes of the next one.
  void set_on_complete(std::function<void()> tell) { on_complete_ = std::move(tell); }

  // What run.resume means here; rank 0 only, the others get null. Null: a new run.
  //   auto      the newest checkpoint that can be read
  //   never     Error(kConfig) if there is one
  //   a folder  that checkpoint; but where the newest checkpoint here was made under the same configuration
  //             (`config_hash`, run.resume included), the same command has been started again, and goes on from it.
  std::unique_ptr<CheckpointReader> find(const std::string& resume, std::uint64_t config_hash,
                                         const ReadOptions& how = {});

  // Collective, once the state has been loaded from what find() returned: a run that went back has its later steps
  // moved to checkpoints/abandoned, and a run that starts from another folder's checkpoint gets it as its own. Updates
  // state.branch_step.
  void adopt(const CheckpointReader* reader, TrainState& state);

  // Collective: begins the checkpoint of state.step unless it is the newest already, or under way; an earlier one comes
  // to its end first. When the checkpoint exists, what has expired is removed. A save that fails, here or below, is
  // thrown on every rank, or a warning if checkpoint.on_error allows it. ranges: evaluation's own of this state of
  // training.
  void begin_save(TrainState state, const EvaluationRanges& ranges = {});
  // Collective, once a step: whether the save under way has come to its end; does not wait for it.
  void look_after_save();
  // Collective: waits for the save under way, if there is one.
  void finish_save();
  // A save is under way: the same on every rank.
  bool is_saving() const { return saving_ != nullptr; }
  // Of this rank alone: parameters and moments must stay as they are, until wait_until_read() has returned.
  bool is_reading() const;
  void wait_until_read();

  // The parameters that stood after `step` steps gave a plausible loss.
  void note_plausible(std::int64_t step);
  // Collective: moves what was written after the newest healthy checkpoint to checkpoints/diverged. No save is under
  // way.
  void set_aside_unhealthy();

  // Steps of the newest complete checkpoint; -1: none. The same on every rank.
  std::int64_t saved_step() const { return saved_step_; }
  // Its folder, from which the same command goes on; empty: none.
  std::string newest_folder() const { return saved_step_ >= 0 ? folder_of(saved_step_).string() : ""; }
  // Why the last save that ended left no checkpoint (checkpoint.on_error); empty: it did. The same on every rank.
  const std::string& failure() const { return failure_; }

 private:
  struct Saving;  // the save under way

  std::filesystem::path folder_of(std::int64_t step) const;
  // The steps whose checkpoints stay when that of `state` is there.
  std::set<std::int64_t> protected_steps(const TrainState& state) const;
  void start(const TrainState& state, const EvaluationRanges& ranges);
  void conclude();
  // Runs a part of a save; obeys checkpoint.on_error.
  void attempt(const std::function<void()>& part);
  void clean_up();

  std::filesystem::path root_;
  CheckpointConfig config_;
  Gpt2& model_;
  ShardedAdamW& optimizer_;
  GradientSync& gradients_;
  dist::Grid grid_;
  Logger& log_;
  std::function<void()> on_complete_;
  bool goes_back_ = false;  // rank 0: find() took the checkpoint that run.resume names
  std::int64_t saved_step_ = -1;
  std::int64_t healthy_step_ = -1;
  std::string failure_;
  std::unique_ptr<Saving> saving_;
};

}  // namespace qat
