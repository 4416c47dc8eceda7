#include "src/train/trainer.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <filesystem>

#include "src/base/file.h"
#include "src/checkpoint/retention.h"
#include "src/quant/gemm_path.h"
#include "src/report/final_report.h"
#include "src/train/calibrator.h"
#include "src/train/model_report.h"
#include "src/train/on_root.h"
#include "src/train/resume_check.h"
#include "src/train/run_state.h"

namespace qat {
namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

PrecisionMap precision_of(const Gpt2& model, const QuantConfig& quant, const dist::StepPlan& plan) {
  const LayerPrecision base{BitWidth(plan.weight_bits), BitWidth(plan.activation_bits), BitWidth(plan.gradient_bits)};
  return PrecisionMap::make(model.linear_names(), base, quant.overrides);
}

StepRunnerOptions runner_options(const TrainerOptions& options) {
  return {.seed = options.run.seed,
          .sequence_length = options.data.sequence_length,
          .train = options.train,
          .optim = options.optim,
          .stochastic_gradients = options.quant.stochastic_gradients,
          .threads = options.threads};
}

}  // namespace

Trainer::Trainer(const TrainerOptions& options, const TrainerParts& parts)
    : options_(options),
      parts_(parts),
      sampler_(parts.train_tokens, options.data.sequence_length, options.run.seed),
      coordinator_(options, sampler_.windows_per_epoch()),
      runner_(parts.model, sampler_, parts.comm, runner_options(options)) {
  state_.seed = options.run.seed;
}

TrainResult Trainer::run() {
  resume();
  if (std::string report = existing_report(); !report.empty()) return {.finished = true, .table = std::move(report)};
  if (is_root()) {
    const std::filesystem::path dir = options_.run.dir;
    metrics_.emplace(dir / "metrics.jsonl", state_.step);
    evaluations_.emplace(dir / "eval.jsonl", state_.step);
  }
  if (state_.step == 0 && options_.eval.at_start) evaluate({BitWidth::kFull});
  const int signal = train();
  if (signal != 0) return {.signal = signal};
  return {.finished = true, .table = write_report()};
}

std::unique_ptr<CheckpointReader> Trainer::find_checkpoint() {
  const std::filesystem::path root = std::filesystem::path(options_.run.dir) / "checkpoints";
  const std::string& mode = options_.run.resume;
  for (const auto& folder : sweep_leftovers(root))
    parts_.log.info("cleared up after an interrupted save: " + folder.string());
  if (mode == "auto") {
    auto newest = open_newest_valid(root, [this](const std::string& text) { parts_.log.warning(text); });
    return newest ? std::make_unique<CheckpointReader>(std::move(*newest)) : nullptr;
  }
  if (mode == "never") {
    if (const auto all = list_checkpoints(root); !all.empty())
      throw Error(ErrorKind::kConfig,
                  fmt::format("run.resume is \"never\", but {} holds a run up to step {}: give another "
                              "run.dir, remove that folder, or set run.resume to \"auto\"",
                              options_.run.dir, all.back().step));
    return nullptr;
  }
  return std::make_unique<CheckpointReader>(CheckpointReader::open(resolve_checkpoint(mode)));
}

void Trainer::resume() {
  std::unique_ptr<CheckpointReader> reader;
  on_root(parts_.comm, "looking for a checkpoint", [&] { reader = find_checkpoint(); });
  std::vector<std::int32_t> found = {reader ? 1 : 0};
  parts_.comm.broadcast(view(std::span(found)), /*root=*/0);
  if (found[0] == 0) return;
  load(reader.get());
  if (!reader) return;
  saved_step_ = state_.step;
  checkpoint_ = reader->info().folder.string();
  parts_.log.info(fmt::format("resuming after step {} from {}", state_.step, checkpoint_));
}

void Trainer::load(const CheckpointReader* reader) {
  state_ = load_state(reader, parts_.comm);
  const std::vector<std::string> changes = check_resume(state_.config_json, options_.config_json);
  for (const std::string& change : changes) parts_.log.warning(change);
  if (state_.world_size != parts_.comm.size())
    parts_.log.info(
        fmt::format("the checkpoint is of {} ranks, this run has {}", state_.world_size, parts_.comm.size()));
  load_model(reader, parts_.model, parts_.comm);
  load_optimizer(reader, parts_.model, runner_.optimizer(), parts_.comm);
  bitops_ = {.spent = state_.bitops, .at_full = state_.bitops_at_full, .steps = state_.step};
  state_.config_json = options_.config_json;
}

std::string Trainer::existing_report() {
  if (state_.step < options_.train.steps) return {};
  const std::filesystem::path file = std::filesystem::path(options_.run.dir) / "report.md";
  std::string text;
  if (is_root() && std::filesystem::exists(file)) text = read_file(file, ErrorKind::kConfig);
  text = dist::broadcast_string(parts_.comm, text);
  if (!text.empty())
    parts_.log.info(fmt::format("this run is finished: step {} of {}", state_.step, options_.train.steps));
  return text;
}

int Trainer::train() {
  while (state_.step < options_.train.steps) {
    const double start = seconds_now();
    const dist::StepPlan plan = dist::exchange_step_plan(parts_.comm, coordinator_.plan(state_.step));
    const PrecisionMap precision = precision_of(parts_.model, options_.quant, plan);
    calibrate_for(precision);
    const int local_signal = parts_.signal == nullptr ? 0 : parts_.signal->load();
    const StepOutcome outcome = runner_.run(plan, precision, local_signal);
    account(plan, outcome, precision, seconds_now() - start);
    stop_if_diverged();
    if (plan.evaluate_after != 0) evaluate(evaluation_widths(options_.eval, options_.quant));
    if (plan.checkpoint_after != 0 || outcome.stop_signal != 0) save();
    if (outcome.stop_signal != 0 && state_.step < options_.train.steps) return outcome.stop_signal;
  }
  return 0;
}

void Trainer::account(const dist::StepPlan& plan, const StepOutcome& outcome, const PrecisionMap& precision,
                      double seconds) {
  const std::int64_t tokens = options_.train.batch_size * options_.data.sequence_length;
  const auto work = layer_work(parts_.model, parts_.lora, precision, tokens, options_.data.sequence_length);
  bitops_.add(work);
  state_.step = static_cast<std::int64_t>(plan.step) + 1;
  state_.consumed_samples += options_.train.batch_size;
  state_.consumed_tokens += tokens;
  state_.skips_in_row = outcome.skipped ? state_.skips_in_row + 1 : 0;
  state_.skips_total += outcome.skipped ? 1 : 0;
  if (outcome.skipped)
    parts_.log.warning(
        fmt::format("step {}: loss {} and gradient norm {} are not both finite; all ranks skip the update "
                    "({} in a row, train.max_skips {})",
                    plan.step, outcome.loss, outcome.grad_norm, state_.skips_in_row, options_.train.max_skips));
  if (parts_.on_progress) parts_.on_progress(state_.step, checkpoint_);
  if (!is_root()) return;
  const double tokens_per_s = static_cast<double>(tokens) / seconds;
  const bool last = state_.step == options_.train.steps;
  if (state_.step % options_.train.log_every == 0 || last || outcome.skipped)
    metrics_->write({.step = static_cast<std::int64_t>(plan.step),
                     .loss = outcome.loss,
                     .lr = plan.learning_rate,
                     .weight_bits = plan.weight_bits,
                     .act_bits = plan.activation_bits,
                     .grad_bits = plan.gradient_bits,
                     .grad_norm = outcome.grad_norm,
                     .clipped = outcome.clipped,
                     .tokens = tokens,
                     .tokens_per_s = tokens_per_s,
                     .step_ms = seconds * 1e3,
                     .bitops = step_bitops(work).total(),
                     .bitops_ratio = bitops_.ratio(),
                     .skipped = outcome.skipped,
                     .skips_in_a_row = static_cast<int>(state_.skips_in_row),
                     .time = {}});
  if (parts_.progress != nullptr)
    parts_.progress->update(
        {.steps_done = state_.step, .loss = outcome.loss, .bits = plan.weight_bits, .tokens_per_s = tokens_per_s});
}

void Trainer::stop_if_diverged() {
  if (state_.skips_in_row < options_.train.max_skips) return;
  save();
  throw dist::AgreedError(
      ErrorKind::kDiverged,
      fmt::format(
          "{} steps in a row had a loss or gradient that is not finite (train.max_skips): training has diverged. "
          "Lower lr.peak, lengthen lr.warmup_steps, or raise precision.min_bits, and start from a checkpoint "
          "before the divergence (run.resume)",
          state_.skips_in_row));
}

void Trainer::calibrate_for(const PrecisionMap& precision) {
  if (!needs_calibration(parts_.model, precision)) return;
  parts_.log.info(fmt::format("calibrating activation ranges at step {}", state_.step));
  calibrate(parts_.model, precision, sampler_, parts_.comm,
            {.seed = options_.run.seed,
             .batches = options_.quant.calibration_batches,
             .micro_batch_size = options_.train.micro_batch_size,
             .sequence_length = options_.data.sequence_length});
}

std::vector<WidthScore> Trainer::evaluate(const std::vector<int>& widths) {
  for (const int bits : widths) calibrate_for(evaluation_precision(parts_.model, options_.quant, bits));
  const auto scores = score_widths(parts_.model, parts_.val_tokens, widths, options_.quant, options_.eval,
                                   options_.data.sequence_length, options_.threads, parts_.comm);
  for (const WidthScore& one : scores) {
    parts_.log.info(fmt::format("held-out perplexity after step {} at {} bits: {:.3f}", state_.step, one.bits,
                                one.score.perplexity()));
    if (is_root())
      evaluations_->append(Value::object({{"step", state_.step},
                                          {"bits", one.bits},
                                          {"nll", one.score.mean_nll()},
                                          {"perplexity", one.score.perplexity()},
                                          {"tokens", one.score.tokens}}));
  }
  return scores;
}

void Trainer::save() {
  if (saved_step_ == state_.step) return;
  state_.config_json = options_.config_json;
  state_.config_hash = options_.config_hash;
  state_.world_size = parts_.comm.size();
  state_.bitops = bitops_.spent;
  state_.bitops_at_full = bitops_.at_full;
  const std::filesystem::path root = std::filesystem::path(options_.run.dir) / "checkpoints";
  const auto folder = save_run(root, state_, parts_.model, runner_.optimizer(), parts_.comm);
  on_root(parts_.comm, "removing old checkpoints",
          [&] { apply_retention(root, options_.checkpoint.keep, state_.step); });
  saved_step_ = state_.step;
  checkpoint_ = folder.string();
  parts_.log.info("checkpoint complete: " + checkpoint_);
  if (parts_.on_progress) parts_.on_progress(state_.step, checkpoint_);
}

std::string Trainer::write_report() {
  const auto scores = evaluate(evaluation_widths(options_.eval, options_.quant));
  std::string table;
  on_root(parts_.comm, "writing the report", [&] {
    FinalReport report{.title = "Held-out perplexity by bit width"};
    report.widths = width_results(parts_.model, parts_.lora, options_.quant, scores, options_.data.sequence_length);
    report.summary = {{"steps", std::to_string(state_.step)},
                      {"tokens trained on", std::to_string(state_.consumed_tokens)},
                      {"steps skipped (not finite)", std::to_string(state_.skips_total)},
                      {"training BitOps relative to 32 bits", fmt::format("{:.4f}", bitops_.ratio())},
                      {"checkpoint", checkpoint_}};
    report.details = Value::object({{"step", state_.step},
                                    {"tokens", state_.consumed_tokens},
                                    {"skips", state_.skips_total},
                                    {"bitops", bitops_.spent},
                                    {"bitops_ratio", bitops_.ratio()},
                                    {"checkpoint", checkpoint_}});
    table = write_final_report(options_.run.dir, report);
  });
  return table;
}

}  // namespace qat
