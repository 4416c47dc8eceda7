#include "src/train/checkpoint_keeper.h"

#include <fmt/format.h>

#include <system_error>
#include <vector>

#include "src/checkpoint/aside.h"
#include "src/checkpoint/retention.h"
#include "src/train/on_root.h"
#include "src/train/replica_check.h"
#include "src/train/run_state.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

std::string names_of(const std::vector<fs::path>& places) {
  std::string text;
  for (const fs::path& place : places) text += (text.empty() ? "" : ", ") + place.filename().string();
  return text;
}

// Whether a checkpoint is one of `root`'s own steps: not of another folder, nor of one that was put aside.
bool lies_in(const fs::path& checkpoint, const fs::path& root) {
  std::error_code error;
  return fs::equivalent(fs::canonical(checkpoint, error).parent_path(), root, error);
}

}  // namespace

CheckpointKeeper::CheckpointKeeper(const std::string& run_dir, const CheckpointConfig& config, Gpt2& model,
                                   ShardedAdamW& optimizer, dist::Communicator& comm, Logger& log)
    : root_(fs::path(run_dir) / "checkpoints"),
      config_(config),
      model_(model),
      optimizer_(optimizer),
      comm_(comm),
      log_(log) {}

fs::path CheckpointKeeper::folder_of(std::int64_t step) const { return root_ / step_folder_name(step); }

void CheckpointKeeper::clean_up() {
  for (const fs::path& folder : sweep_leftovers(root_))
    log_.info("cleared up after an interrupted save: " + folder.string());
  for (const fs::path& place : finish_moving_aside(root_)) log_.info("moved aside: " + place.string());
}

std::unique_ptr<CheckpointReader> CheckpointKeeper::find(const std::string& resume, std::uint64_t config_hash,
                                                         const ReadOptions& how) {
  clean_up();
  if (resume == "never") {
    if (const auto all = list_checkpoints(root_); !all.empty())
      throw Error(ErrorKind::kConfig,
                  fmt::format("run.resume is \"never\", but {} holds a run up to step {}: give another "
                              "run.dir, remove that folder, or set run.resume to \"auto\"",
                              root_.parent_path().string(), all.back().step));
    return nullptr;
  }
  const auto warn = [this](const std::string& text) { log_.warning(text); };
  if (resume == "auto") {
    auto newest = open_newest_valid(root_, warn, how);
    return newest ? std::make_unique<CheckpointReader>(std::move(*newest)) : nullptr;
  }
  auto named = std::make_unique<CheckpointReader>(open_checkpoint(resume, warn, how));
  goes_back_ = true;
  if (list_checkpoints(root_).empty()) return named;
  if (auto newest = open_newest_valid(root_, warn, how)) {
    const TrainState state = load_train_state(*newest);
    if (state.config_hash == config_hash && state.step > named->info().step) {
      log_.info(
          fmt::format("the same command has come to step {} already, and goes on from there; to start from {} "
                      "once more, move {} away",
                      state.step, resume, newest->info().folder.string()));
      goes_back_ = false;
      return std::make_unique<CheckpointReader>(std::move(*newest));
    }
  }
  return named;
}

void CheckpointKeeper::adopt(const CheckpointReader* reader, TrainState& state) {
  struct Decision {
    std::int64_t goes_back = 0;  // run.resume names a checkpoint, and it is the one that was taken
    std::int64_t foreign = 0;    // of another folder
  } decision;
  on_root(comm_, "taking up the checkpoint", [&] {
    const fs::path& folder = reader->info().folder;
    decision.foreign = lies_in(folder, root_) ? 0 : 1;
    decision.goes_back = goes_back_ ? 1 : decision.foreign;
    if (decision.goes_back == 0) return;
    const std::int64_t first = state.step + (decision.foreign == 0 ? 1 : 0);
    const auto places = move_aside(root_, kAbandonedFolder, first);
    if (!places.empty())
      log_.warning(
          fmt::format("going on from step {}: the later steps of this folder are given up, and moved to {}: {}",
                      state.step, (root_ / kAbandonedFolder).string(), names_of(places)));
  });
  std::vector<std::int64_t> words = {decision.goes_back, decision.foreign};
  comm_.broadcast(view(std::span(words)), /*root=*/0);
  if (words[0] != 0) state.branch_step = state.step;
  healthy_step_ = state.healthy_step;
  if (words[1] != 0) {
    healthy_step_ = -1;  // a step of that other folder
    saved_step_ = -1;
    save(state);
  } else {
    saved_step_ = state.step;
  }
}

std::set<std::int64_t> CheckpointKeeper::protected_steps(const TrainState& state) const {
  std::set<std::int64_t> steps = {saved_step_, healthy_step_, state.branch_step};
  if (config_.keep_best) steps.insert(state.best_step);
  return steps;
}

bool CheckpointKeeper::save(TrainState state, const EvaluationRanges& ranges) {
  if (saved_step_ == state.step) return true;
  state.healthy_step = healthy_step_;
  check_replicas(model_, comm_);
  try {
    (void)save_run(root_, state, model_, optimizer_, comm_, ranges);
  } catch (const dist::AgreedError& error) {
    if (error.kind() != ErrorKind::kCheckpoint || config_.on_error != OnSaveError::kContinue) throw;
    log_.warning(fmt::format("{}; training goes on (checkpoint.on_error)", error.what()));
    return false;
  }
  saved_step_ = state.step;
  on_root(comm_, "removing old checkpoints", [&] {
    if (config_.keep_best && state.best_step == state.step) link_checkpoint(root_, "best", state.step);
    for (const std::string& failure : apply_retention(root_, config_.keep, protected_steps(state)).failures)
      log_.warning(failure);
  });
  log_.info("checkpoint complete: " + folder_of(state.step).string());
  return true;
}

void CheckpointKeeper::note_plausible(std::int64_t step) {
  if (step == saved_step_) healthy_step_ = step;
}

void CheckpointKeeper::set_aside_unhealthy() {
  if (saved_step_ <= healthy_step_) return;
  on_root(comm_, "moving checkpoints aside", [&] {
    const auto places = move_aside(root_, kDivergedFolder, healthy_step_ + 1);
    if (!places.empty())
      log_.warning(fmt::format("written while the run came apart, and moved to {}: {}",
                               (root_ / kDivergedFolder).string(), names_of(places)));
  });
  saved_step_ = healthy_step_;
}

}  // namespace qat
