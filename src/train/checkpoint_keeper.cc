#include "src/train/checkpoint_keeper.h"

#include <fmt/format.h>

#include <chrono>
#include <system_error>
#include <utility>
#include <vector>

#include "src/checkpoint/aside.h"
#include "src/checkpoint/background_save.h"
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

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

}  // namespace

// What rank 0 does, on the writing thread, once a checkpoint is there.
struct CheckpointKeeper::Aftermath {
  fs::path root;
  std::int64_t step = 0;
  bool is_best = false;
  int keep = 0;
  std::set<std::int64_t> stay;

  std::vector<std::string> warnings{};  // old checkpoints that could not be removed
  std::optional<Error> failure{};

  void run() noexcept {
    try {
      if (is_best) link_checkpoint(root, "best", step);
      warnings = apply_retention(root, keep, stay).failures;
    } catch (const Error& error) {
      failure = error;
    } catch (const std::exception& error) {
      failure.emplace(ErrorKind::kInternal, error.what());
    }
  }
};

namespace {

// A save with its aftermath; null on ranks that have none.
class KeptSave final : public SaveWork {
 public:
  KeptSave(std::unique_ptr<SaveWork> save, CheckpointKeeper::Aftermath* aftermath)
      : save_(std::move(save)), aftermath_(aftermath) {}
  void write(SaveProgress& progress) noexcept override { save_->write(progress); }
  void collect() override { save_->collect(); }
  bool commit(SaveProgress& progress) noexcept override {
    if (!save_->commit(progress)) return false;
    if (aftermath_ != nullptr) aftermath_->run();
    return true;
  }
  fs::path conclude() override { return save_->conclude(); }

 private:
  std::unique_ptr<SaveWork> save_;
  CheckpointKeeper::Aftermath* aftermath_;
};

// Adds how long it lives.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds) {}
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() { seconds_ += seconds_since(begin_); }

 private:
  double& seconds_;
  Clock::time_point begin_ = Clock::now();
};

}  // namespace

struct CheckpointKeeper::Saving {
  std::int64_t step = 0;
  Clock::time_point begun = Clock::now();
  double waited = 0.0;     // training, for this save
  std::int64_t steps = 0;  // made meanwhile
  bool healthy = false;    // its parameters have given a plausible loss
  Aftermath aftermath{};
  std::optional<BackgroundSave> save{};  // last: it works on the rest
};

CheckpointKeeper::CheckpointKeeper(const std::string& run_dir, const CheckpointConfig& config, Gpt2& model,
                                   ShardedAdamW& optimizer, GradientSync& gradients, const dist::Grid& grid,
                                   Logger& log)
    : root_(fs::path(run_dir) / "checkpoints"),
      config_(config),
      model_(model),
      optimizer_(optimizer),
      gradients_(gradients),
      grid_(grid),
      log_(log) {}

fs::path CheckpointKeeper::folder_of(std::int64_t step) const { return root_ / step_folder_name(step); }

void CheckpointKeeper::clean_up() {
  const Sweep sweep = sweep_leftovers(root_);
  for (const std::string& failure : sweep.failures) log_.warning(failure);
  for (const fs::path& folder : sweep.swept) log_.info("cleared up after an interrupted save: " + folder.string());
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
  on_root(grid_.world(), "taking up the checkpoint", [&] {
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
  grid_.world().broadcast(view(std::span(words)), /*root=*/0);
  if (words[0] != 0) state.branch_step = state.step;
  healthy_step_ = state.healthy_step;
  if (words[1] != 0) {
    healthy_step_ = -1;  // a step of that other folder
    saved_step_ = -1;
    begin_save(state);
    finish_save();
  } else {
    saved_step_ = state.step;
  }
}

std::set<std::int64_t> CheckpointKeeper::protected_steps(const TrainState& state) const {
  std::set<std::int64_t> steps = {state.step, healthy_step_, state.branch_step};
  if (config_.keep_best) steps.insert(state.best_step);
  return steps;
}

CheckpointKeeper::~CheckpointKeeper() = default;

void CheckpointKeeper::attempt(const std::function<void()>& part) {
  const std::int64_t saved = saved_step_;
  try {
    part();
  } catch (const dist::AgreedError& error) {
    saving_.reset();
    if (error.kind() != ErrorKind::kCheckpoint || config_.on_error != OnSaveError::kContinue) throw;
    if (saved_step_ == saved) failure_ = error.what();  // else what came after a complete save has failed
    log_.warning(fmt::format("{}; training goes on (checkpoint.on_error)", error.what()));
  }
}

void CheckpointKeeper::begin_save(TrainState state, const EvaluationRanges& ranges) {
  if (saved_step_ == state.step || (saving_ && saving_->step == state.step)) return;
  finish_save();
  state.healthy_step = healthy_step_;
  check_replicas(model_, grid_);
  attempt([&] { start(state, ranges); });
}

void CheckpointKeeper::start(const TrainState& state, const EvaluationRanges& ranges) {
  auto saving = std::make_unique<Saving>();
  const Stopwatch waiting(saving->waited);
  saving->step = state.step;
  saving->aftermath = {.root = root_,
                       .step = state.step,
                       .is_best = config_.keep_best && state.best_step == state.step,
                       .keep = config_.keep,
                       .stay = protected_steps(state)};
  auto work = std::make_unique<KeptSave>(qat::begin_save(root_, state, model_, optimizer_, grid_, ranges, &gradients_),
                                         grid_.world().rank() == 0 ? &saving->aftermath : nullptr);
  saving->save.emplace(std::move(work), grid_.world());
  saving_ = std::move(saving);
}

void CheckpointKeeper::look_after_save() {
  if (!saving_) return;
  ++saving_->steps;
  attempt([this] {
    if (saving_->save->advance()) conclude();
  });
}

void CheckpointKeeper::finish_save() {
  if (saving_) attempt([this] { conclude(); });
}

void CheckpointKeeper::conclude() {
  {
    const Stopwatch waiting(saving_->waited);
    saving_->save->finish();
  }
  const std::unique_ptr<Saving> done = std::move(saving_);
  saved_step_ = done->step;
  failure_.clear();
  if (done->healthy) healthy_step_ = done->step;
  if (on_complete_) on_complete_();
  on_root(grid_.world(), "removing old checkpoints", [&] {
    for (const std::string& failure : done->aftermath.warnings) log_.warning(failure);
    if (done->aftermath.failure) throw Error(*done->aftermath.failure);
  });
  log_.info(fmt::format("checkpoint complete: {} (after {:.2f} s and {} step{}; training waited {:.2f} s for it)",
                        folder_of(saved_step_).string(), seconds_since(done->begun), done->steps,
                        done->steps == 1 ? "" : "s", done->waited));
}

bool CheckpointKeeper::is_reading() const { return saving_ && !saving_->save->has_read(); }

void CheckpointKeeper::wait_until_read() {
  if (!is_reading()) return;
  const Stopwatch waiting(saving_->waited);
  saving_->save->wait_until_read();
}

void CheckpointKeeper::note_plausible(std::int64_t step) {
  if (step == saved_step_) healthy_step_ = step;
  if (saving_ && step == saving_->step) saving_->healthy = true;  // once it is there
}

void CheckpointKeeper::set_aside_unhealthy() {
  if (saved_step_ <= healthy_step_) return;
  on_root(grid_.world(), "moving checkpoints aside", [&] {
    const auto places = move_aside(root_, kDivergedFolder, healthy_step_ + 1);
    if (!places.empty())
      log_.warning(fmt::format("written while the run came apart, and moved to {}: {}",
                               (root_ / kDivergedFolder).string(), names_of(places)));
  });
  saved_step_ = healthy_step_;
}

}  // namespace qat
