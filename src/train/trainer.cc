#include "src/train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "src/base/file.h"
#include "src/quant/tensor_memory.h"
#include "src/train/final_table.h"
#include "src/train/model_report.h"
#include "src/train/on_root.h"
#include "src/train/replica_check.h"
#include "src/train/wire_of.h"

namespace qat {
namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of the updates that changed parameters.
std::vector<PrecisionMap> maps_that_counted(const dist::StepPlan& plan, const StepOutcome& outcome,
                                            const std::vector<PrecisionMap>& maps) {
  std::vector<bool> counted(maps.size());
  for (std::size_t update = 0; update < outcome.updates.size(); ++update)
    for (const dist::PassPlan& pass : plan.updates[update].passes)
      if (!outcome.updates[update].skipped) counted[pass.map] = true;
  std::vector<PrecisionMap> found;
  for (std::size_t map = 0; map < maps.size(); ++map)
    if (counted[map]) found.push_back(maps[map]);
  return found;
}

// Ranks of a node on the two levels of the gradients' exchange; 0: one level.
int logged_places(const TrainerOptions& options, const TrainerParts& parts) {
  std::string why;
  const int places = exchange_places(options.comm, parts.grid, parts.hosts, why);
  if (!why.empty())
    parts.log.warning("gradients are exchanged on one level: " + why +
                      "; start equally many ranks on each node, a node's one after the other");
  return places;
}

StepRunnerOptions runner_options(const TrainerOptions& options, const TrainerParts& parts) {
  return {.seed = options.run.seed,
          .sequence_length = options.data.sequence_length,
          .train = options.train,
          .optim = options.optim,
          .stochastic_gradients = options.quant.stochastic_gradients,
          .comm = options.comm,
          .places = logged_places(options, parts),
          .threads = options.threads,
          .schedule = options.schedule,
          .transfer = options.transfer,
          .board = parts.board};
}

CalibratorOptions calibrator_options(const TrainerOptions& options, dist::ProgressBoard* board) {
  CalibratorOptions all = calibrator_options(options.quant, options.run.seed, options.train.micro_batch_size,
                                             options.data.sequence_length, board);
  all.step_batches = options.train.batch_size / options.train.micro_batch_size;
  return all;
}

}  // namespace

Trainer::Trainer(const TrainerOptions& options, const TrainerParts& parts)
    : options_(options),
      parts_(parts),
      maps_(configured_maps(parts.model.config(), options.quant, options.precision.most_gradient_bits())),
      runner_(parts.model, parts.samples, parts.grid, runner_options(options, parts)),
      keeper_(options.run.dir, options.checkpoint, parts.model, runner_.optimizer(), runner_.gradients(), parts.grid,
              parts.log),
      poll_(parts.grid.world(), [this] { return requested_stop(); }),
      calibrator_(parts.model, options_.quant, parts.samples, parts.grid, poll_, parts.log,
                  calibrator_options(options, parts.board)),
      running_ranges_(parts.model, options_.quant, parts.grid.data(), parts.log),
      losses_(options.train.spike_window),
      stragglers_(static_cast<std::size_t>(parts.grid.stages()),
                  dist::StragglerWindow(parts.grid.data_size(), options.watchdog.straggler_window)) {
  options_.model = parts.model.config();
  state_.seed = options.run.seed;
  identify_state();
  runner_.set_before_update([this] {
    if (!keeper_.is_reading()) return;
    const dist::SectionMark section(parts_.board, dist::Section::kSave);
    keeper_.wait_until_read();
  });
  keeper_.set_on_complete([this] { tell_progress(); });
  if (running_ranges_.any()) runner_.set_range_sink(&running_ranges_);
  if (parts.grid.data_size() > 1) parts.log.info("gradients travel as " + runner_.gradients().describe());
  if (!wire_of(options.comm).is_exact() && options.comm.self_check > 0.0 && parts.grid.data_size() > 1)
    runner_.gradients().measure_next();
  calibrator_.set_on_report([this](const CalibrationReport& report) { record_calibration(report); });
}

int Trainer::requested_stop() const {
  if (!records_failure_.empty() || parts_.log.failed()) return dist::kRecordsFailed;
  return parts_.signal == nullptr ? 0 : parts_.signal->load();
}

bool Trainer::is_complete() const {
  const bool early = options_.eval.patience > 0 && state_.stale_evaluations >= options_.eval.patience;
  return state_.step >= options_.train.steps || early;
}

TrainResult Trainer::run() {
  try {
    return run_to_end();
  } catch (const dist::AgreedError& error) {
    // All ranks are here, and what was begun is finished, unless they can no longer talk.
    if (error.kind() != ErrorKind::kCommunication) finish_save_whatever_comes();
    throw;
  }
}

TrainResult Trainer::run_to_end() {
  resume();
  if (std::string report = existing_report(); !report.empty()) return {.finished = true, .table = std::move(report)};
  open_records();
  if (const int reason = train(); reason != 0) return stopped_result(reason);
  const auto scores = evaluate(evaluation_widths(options_.eval, options_.quant));
  if (!scores) return stopped_result(poll_.ask());
  save_what_failed();
  std::string table = write_report(*scores);
  require_last_checkpoint();
  return {.finished = true, .table = std::move(table)};
}

int Trainer::train() {
  if (const int reason = poll_.ask(); reason != 0) return reason;
  if (const int reason = settle_bounds(); reason != 0) return reason;
  if (state_.step == 0 && options_.eval.at_start && !evaluate({EvaluatedAt(BitWidth::kFull)})) return poll_.ask();
  if (evaluation_pending()) {
    if (const int reason = evaluate_during_run(); reason != 0) return reason;
  }
  if (parts_.progress != nullptr) parts_.progress->begin(state_.step);
  while (!is_complete()) {
    if (parts_.board != nullptr) parts_.board->enter(dist::Section::kStep);
    const double start = seconds_now();
    const dist::StepPlan plan = dist::exchange_step_plan(
        world(), coordinator_->plan({.step = state_.step, .samples = state_.consumed_samples}));
    const std::vector<PrecisionMap> maps = precision_of(plan.maps);
    for (const PrecisionMap& precision : maps)
      if (!calibrator_.before_step(precision, state_.step, state_.consumed_samples)) return poll_.ask();
    if (running_ranges_.any()) running_ranges_.begin_step();
    const StepOutcome outcome = run_step(plan, maps);
    if (outcome.wire_error) check_wire(*outcome.wire_error);
    if (outcome.refused) diverge_in_update();
    if (outcome.abandoned) return outcome.stop;
    if (running_ranges_.any()) running_ranges_.end_step(maps_that_counted(plan, outcome, maps));
    account(plan, outcome, maps, seconds_now() - start);
    look_at_layers(plan, maps);
    stop_if_diverged();
    look_after_save();
    // What would come after the step waits for the resumed run.
    if (const int reason = outcome.stop != 0 ? outcome.stop : after_step(plan); reason != 0) return reason;
  }
  finish_save();  // the final evaluation may take long
  return 0;
}

// The first sums of codes beside those in fp32.
void Trainer::check_wire(double error) {
  const std::string found = fmt::format("the first gradients' sum as {} differs by {:.3g} of its norm from fp32's",
                                        runner_.gradients().describe(), error);
  parts_.log.info(found);
  if (error <= options_.comm.self_check) return;
  throw dist::AgreedError(ErrorKind::kSelfCheck,
                          fmt::format("{}: more than comm.self_check = {}; a smaller comm.block or a wider comm.wire "
                                      "comes nearer",
                                      found, options_.comm.self_check));
}

std::string Trainer::wire_text() const {
  if (parts_.grid.data_size() == 1 || wire_updates_ == 0) return {};
  constexpr double kMiB = 1024.0 * 1024.0;
  const auto updates = static_cast<double>(wire_updates_);
  const auto bytes = static_cast<double>(wire_.sent_bytes), whole = static_cast<double>(wire_.fp32_bytes);
  return fmt::format(
      "{}: {:.2f} MiB an update from each rank ({:.2f} MiB in fp32), {:.2f} ms of it exposed ({:.2f} "
      "GiB/s); {:.2f} MiB of updated weights, {:.2f} ms of it exposed; since the last start",
      runner_.gradients().describe(), bytes / updates / kMiB, whole / updates / kMiB, wire_.seconds / updates * 1e3,
      bytes / kMiB / 1024.0 / std::max(wire_.seconds, 1e-9), static_cast<double>(wire_.weight_bytes) / updates / kMiB,
      wire_.weight_seconds / updates * 1e3);
}

std::vector<PrecisionMap> Trainer::precision_of(std::span<const dist::PlannedWidths> planned) const {
  return planned_precision(parts_.model.linear_names(), options_.quant, maps_, planned);
}

StepOutcome Trainer::run_step(const dist::StepPlan& plan, const std::vector<PrecisionMap>& maps) {
  const SpikeTest spike = [&](const dist::UpdatePlan& update, double loss) { return is_spike(plan, update, loss); };
  std::optional<StageTimeline> timeline;
  const bool timed = options_.timeline_step > 0 && parts_.grid.stages() > 1;
  if (timed && state_.step == options_.timeline_step) {
    world().barrier();
    timeline.emplace(parts_.model.mode().device, world().rank());
    runner_.set_timeline(&*timeline);
  }
  const std::vector<PrecisionMap> ahead = precision_of(plan.ahead);
  const StepOutcome outcome =
      run_fitting([&](const StepOutcome& so_far) { return runner_.run(plan, maps, poll_, spike, so_far, ahead); });
  if (timeline) {
    runner_.set_timeline(nullptr);
    write_timeline(*timeline);
  }
  return outcome;
}

// A step goes on in smaller passes from where memory does not suffice.
StepOutcome Trainer::run_fitting(const std::function<StepOutcome(const StepOutcome& so_far)>& run) {
  StepOutcome outcome = run({});
  while (!outcome.out_of_memory.empty()) {
    use_smaller_passes(outcome.out_of_memory);
    outcome = run(outcome);
  }
  return outcome;
}

void Trainer::write_timeline(const StageTimeline& mine) {
  const dist::Timeline all = gather_timeline(mine, world());
  if (!is_root()) return;
  const std::filesystem::path dir = options_.run.dir;
  record([&] {
    write_file_atomic(dir / "timeline.json", dist::to_chrome_trace(all));
    write_file_atomic(dir / "timeline.csv", dist::to_csv(all));
  });
  parts_.log.info(fmt::format("the timeline of step {} is in {}", state_.step, (dir / "timeline.json").string()));
}

void Trainer::use_smaller_passes(const std::vector<int>& ranks) {
  const std::int64_t now = runner_.micro_batch_size();
  const std::string who = dist::name_ranks(ranks);
  std::int64_t smaller = now / 2;
  while (smaller > 0 && now % smaller != 0) --smaller;
  if (smaller == 0)
    throw dist::AgreedError(
        ErrorKind::kOutOfMemory,
        fmt::format("out of memory on {}, with passes of one sequence: lower data.sequence_length or "
                    "the model's sizes, set compute.recompute, or run fewer ranks on a machine",
                    who));
  release_cached_memory(parts_.model.mode().device);
  runner_.set_micro_batch_size(smaller);
  parts_.log.warning(
      fmt::format("out of memory on {} in step {}: from this step on, passes are of {} sequences instead of "
                  "{} (train.on_out_of_memory); the batch stays. To be spared this, set "
                  "train.micro_batch_size to {}",
                  who, state_.step + 1, smaller, now, smaller));
}

// What comes after a step: evaluation, checkpoint. Why to stop then, asked anew since both take time; 0: go on.
int Trainer::after_step(const dist::StepPlan& plan) {
  const std::int64_t every = options_.train.replica_check_every;
  if (every > 0 && state_.step % every == 0) check_replicas(parts_.model, parts_.grid);
  bool asked = false;
  int reason = 0;
  if (plan.evaluate_after) reason = evaluate_during_run(), asked = true;
  const bool is_best = options_.checkpoint.keep_best && state_.best_step == state_.step;
  if (reason == 0 && (plan.checkpoint_after || is_best || save_due_ || is_complete())) save(), asked = true;
  if (asked) reason = std::max(reason, poll_.ask());
  return reason;
}

bool Trainer::evaluation_pending() const {
  const std::int64_t every = options_.eval.every;
  return state_.step > 0 && !is_complete() && every > 0 && state_.step % every == 0 &&
         state_.evaluated_step != state_.step;
}

void Trainer::record(const std::function<void()>& write) {
  try {
    write();
  } catch (const Error& error) {
    if (records_failure_.empty()) records_failure_ = error.what();
  }
}

void Trainer::record_calibration(const CalibrationReport& report) {
  if (parts_.grid.stages() == 1) {
    if (is_root()) record([&] { calibrations_->append(to_value(report)); });
    return;
  }
  const std::vector<std::string> lines = dist::gather_strings(parts_.grid.pipeline(), to_json(to_value(report)));
  if (!is_root()) return;
  for (std::size_t stage = 0; stage < lines.size(); ++stage) {
    Value line = parse_json(lines[stage], "a stage's calibration");
    line.set("stage", static_cast<std::int64_t>(stage));
    record([&] { calibrations_->append(line); });
  }
}

void Trainer::stop_if_diverged() {
  if (state_.skips_in_row == 0) return;
  // A run that ends on a skipped step has only what its last update left.
  const bool last = state_.step >= options_.train.steps && !skip_plausible_;
  if (state_.skips_in_row < options_.train.max_skips && !last) return;
  diverge(last ? fmt::format("the run's last step ({}) was skipped: its loss or gradient is not finite", state_.step)
               : fmt::format("{} steps in a row (to step {}) had a loss or gradient that is not finite, or a loss that "
                             "stands out (train.max_skips)",
                             state_.skips_in_row, state_.step));
}

void Trainer::diverge(const std::string& what) {
  // Parameters that still give a plausible loss are worth a checkpoint: the state before the first skipped step.
  if (skip_plausible_) {
    save();
    finish_save();
  } else {
    finish_save_whatever_comes();
    keeper_.set_aside_unhealthy();
  }
  tell_progress();
  const std::int64_t from = keeper_.saved_step();
  throw dist::AgreedError(
      ErrorKind::kDiverged,
      fmt::format("{}: training has diverged. {}. Change what made it diverge first, or it will again: lower lr.peak, "
                  "lengthen lr.warmup_steps, or raise precision.min_bits",
                  what,
                  from >= 0 ? fmt::format("The newest healthy checkpoint is that of step {}, from which the same "
                                          "command goes on",
                                          from)
                            : "There is no healthy checkpoint, so that the same command begins anew"));
}

void Trainer::diverge_in_update() {
  skip_plausible_ = false;  // the parameters are no longer those of that loss
  diverge(fmt::format(
      "the update of a step before {} would have made parameters or AdamW's moments infinite or not a number; "
      "these were left as they were",
      state_.step));
}

std::optional<std::vector<WidthScore>> Trainer::evaluate(const std::vector<EvaluatedAt>& widths) {
  const dist::SectionMark section(parts_.board, dist::Section::kEvaluation);
  const EvaluationRanges* ranges = calibrator_.for_evaluation(widths, state_.step);
  if (ranges == nullptr) return std::nullopt;
  auto scores = score_widths(parts_.model, parts_.held_out, widths, options_.quant, options_.eval,
                             options_.data.sequence_length, options_.threads, parts_.grid, poll_, *ranges);
  if (!scores) return scores;
  for (const WidthScore& one : *scores) {
    parts_.log.info(evaluation_line(one, state_.step));
    if (is_root()) record_evaluation(one);
  }
  return scores;
}

int Trainer::evaluate_during_run() {
  const auto scores = evaluate(evaluation_widths(options_.eval, options_.quant));
  if (!scores) return poll_.ask();
  double loss = 0.0;
  for (const WidthScore& one : *scores) loss += one.score.mean_nll() / static_cast<double>(scores->size());
  const bool better =
      std::isfinite(loss) && (state_.best_step < 0 || loss < state_.best_loss - options_.eval.min_delta);
  if (better) state_.best_step = state_.step, state_.best_loss = loss;
  state_.stale_evaluations = better ? 0 : state_.stale_evaluations + 1;
  state_.evaluated_step = state_.step;
  if (state_.skips_in_row == 0) applied_ = state_;
  if (is_complete())
    parts_.log.info(
        fmt::format("training ends after step {}: {} evaluations without a held-out loss below {:.4f}, that "
                    "of step {} (eval.patience)",
                    state_.step, state_.stale_evaluations, state_.best_loss, state_.best_step));
  return 0;
}

void Trainer::tell_progress() const {
  if (parts_.on_progress) parts_.on_progress(state_.step, keeper_.newest_folder());
}

std::string Trainer::write_report(const std::vector<WidthScore>& scores) {
  // No width gives a number: the last update left nothing worth a table.
  if (std::none_of(scores.begin(), scores.end(), [](const auto& one) { return std::isfinite(one.score.nll_sum); }))
    diverge("the held-out loss after the last step is not finite at any width");
  std::string table;
  const dist::SectionMark section(parts_.board, dist::Section::kReport);
  on_root(world(), "writing the report", [&] {
    table = write_final_table(options_, parts_.model.whole(), state_, bitops_, scores, wire_text(),
                              keeper_.newest_folder(), evaluation_settings(options_, parts_.held_out));
    if (options_.eval.predictions) write_predictions(options_.run.dir, parts_.held_out, scores);
  });
  return table;
}

}  // namespace qat
