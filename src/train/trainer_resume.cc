#include <fmt/format.h>

#include <filesystem>

#include "src/base/file.h"
#include "src/report/tensorboard.h"
#include "src/train/feedback_state.h"
#include "src/train/final_table.h"
#include "src/train/model_report.h"
#include "src/train/on_root.h"
#include "src/train/resume_check.h"
#include "src/train/run_state.h"
#include "src/train/trainer.h"

// Taking a run up: from the newest checkpoint, with what it says of data and configuration, and its records.

namespace qat {

void Trainer::resume() {
  std::unique_ptr<CheckpointReader> reader;
  on_root(world(), "looking for a checkpoint",
          [&] { reader = keeper_.find(options_.run.resume, options_.config_hash, {.strict = options_.strict}); });
  std::vector<std::int32_t> found = {reader ? 1 : 0};
  world().broadcast(view(std::span(found)), /*root=*/0);
  if (found[0] != 0) {
    load(reader.get());
    keeper_.adopt(reader.get(), state_);
  }
  applied_ = state_;
  tell_progress();
  if (reader)
    parts_.log.info(fmt::format("resuming after step {} from {}", state_.step, reader->info().folder.string()));
}

void Trainer::load(const CheckpointReader* reader) {
  state_ = load_state(reader, world());
  for (const std::string& note : load_model(reader, parts_.model, parts_.grid, LoadFor::kResume, options_.config_json))
    parts_.log.warning(note);
  for (const std::string& change : resumed_changes(state_.config_json, options_.config_json))
    parts_.log.warning(change);
  check_data();
  if (state_.world_size != world().size())
    parts_.log.info(fmt::format("the checkpoint is of {} ranks, this run has {}", state_.world_size, world().size()));
  load_optimizer(reader, parts_.model, runner_.optimizer(), parts_.grid);
  if (!load_feedback(reader, parts_.model, runner_.gradients(), parts_.grid))
    parts_.log.warning("the checkpoint's error feedback is dropped: comm.wire and comm.error_feedback keep none now");
  if (state_.version < 2)
    state_.bitops_at_full = bitops_at_full(parts_.model.whole(), state_.consumed_tokens, options_.data.sequence_length);
  bitops_ = {.spent = state_.bitops, .at_full = state_.bitops_at_full, .steps = state_.step};
  losses_ = LossMonitor::from_text(state_.loss_statistics, options_.train.spike_window,
                                   map_keys(parts_.model.config(), state_.config_json));
  usage_ = PrecisionUsage::from_text(state_.precision_usage);
  identify_state();
}

void Trainer::identify_state() {
  state_.version = kTrainStateVersion;
  state_.data_json = to_json(data_identity());
  state_.config_json = options_.config_json;
  state_.config_hash = options_.config_hash;
  state_.world_size = world().size();
  state_.wire = options_.comm.wire == WireFormatName::kAuto ? "" : enum_name(options_.comm.wire);
}

// Only now is the folder this run's: a start that was refused has left config.json to the run that is in it, and so
// has one that only reads the table of a run that has finished.
void Trainer::open_records() {
  on_root(world(), "opening the run's records", [&] {
    const std::filesystem::path dir = options_.run.dir;
    write_file_atomic(dir / "config.json", options_.config_json + "\n");
    metrics_.emplace(dir / "metrics.jsonl", state_.step);
    // The line of an evaluation after step k says k, and is written before the checkpoint of k.
    const bool again = state_.step == 0 || is_complete() || evaluation_pending();
    evaluations_.emplace(dir / "eval.jsonl", again ? state_.step : state_.step + 1);
    if (options_.report.tensorboard) {
      events_.emplace(dir / "tensorboard", state_.step);
      // The evaluation after step k stays, beside steps from k on that are new.
      for_each_json_line(dir / "eval.jsonl", [&](const Value& line) {
        if (line.at("step").as_int() == state_.step) events_->write(state_.step, evaluation_summary(line));
      });
    }
    if (options_.report.layers_every > 0) layers_.emplace(dir / "layers.jsonl", state_.step);
    if (options_.quant.activation.range != RangeSource::kDynamic)
      calibrations_.emplace(dir / "calibration.jsonl", state_.step);
  });
}

void Trainer::check_data() {
  // Nothing is trained any more in a run that has finished: other training tokens change nothing.
  const bool allow = options_.data.allow_change || state_.step >= options_.train.steps;
  std::vector<std::string> lines;
  dist::on_every_rank(world(), "token files",
                      [&] { lines = check_resumed_data(state_.data_json, data_identity(), allow); });
  for (const std::string& line : lines) parts_.log.warning(line);
}

std::string Trainer::existing_report() {
  if (!is_complete()) return {};
  ExistingTable table;
  on_root(world(), "reading the report", [&] {
    table = existing_table(options_.run.dir, state_.step, evaluation_settings(options_, parts_.held_out));
  });
  if (!table.stale.empty())
    parts_.log.info(
        fmt::format("this run is finished, but its table is of other settings ({}): evaluating again", table.stale));
  const std::string text = dist::broadcast_string(world(), table.stale.empty() ? table.text : "");
  if (!text.empty())
    parts_.log.info(fmt::format("this run is finished: step {} of {}", state_.step, options_.train.steps));
  return text;
}

}  // namespace qat
