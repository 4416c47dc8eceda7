#include <fmt/format.h>

#include "dist/comm/agree.h"
#include "src/train/trainer.h"

// What a run leaves behind when it stops, and the saves on the way.

namespace qat {

void Trainer::save() {
  // Between skipped steps the run stands where its last update left it: that is what is saved, and only if a loss has
  // said since that it is worth it. The steps skipped since then come again after a resume.
  if (state_.skips_in_row > 0 && !skip_plausible_) {
    save_due_ = true;
    return;
  }
  TrainState state = state_.skips_in_row > 0 ? applied_ : state_;
  state.loss_statistics = losses_.to_text();
  if (runner_.take_refused()) diverge_in_update();
  save_due_ = false;
  // With what the final table needs, so that `eval` makes the same one from the checkpoint alone.
  if (is_complete() && state.step == state_.step)
    calibrator_.prepare_evaluation(evaluation_widths(options_.eval, options_.quant), state.step);
  const dist::SectionMark section(parts_.board, dist::Section::kSave);
  keeper_.begin_save(state, calibrator_.made_after(state.step));
}

void Trainer::look_after_save() {
  if (keeper_.is_saving()) keeper_.look_after_save();
}

void Trainer::finish_save() {
  if (!keeper_.is_saving()) return;
  const dist::SectionMark section(parts_.board, dist::Section::kSave);
  keeper_.finish_save();
}

void Trainer::finish_save_whatever_comes() {
  try {
    finish_save();
  } catch (const dist::AgreedError& error) {
    if (error.kind() == ErrorKind::kCommunication) throw;
    parts_.log.warning(error.what());
  }
}

// The run ends here: with a checkpoint, and for a signal with its number.
int Trainer::stop_for(int reason) {
  if (reason != dist::kRecordsFailed) {
    if (state_.step > 0) save();
    finish_save();
    return reason;
  }
  std::string what = parts_.log.failed() ? "the log cannot be written" : records_failure_;
  for (const std::string& one : dist::gather_strings(world(), requested_stop() == dist::kRecordsFailed ? what : ""))
    if (!one.empty()) {
      what = one;
      break;
    }
  std::string unsaved;
  try {
    save();
    finish_save();
    unsaved = keeper_.failure();
  } catch (const dist::AgreedError& error) {
    unsaved = error.what();
  }
  if (!unsaved.empty())
    what += fmt::format("; the checkpoint of step {} could not be written either: {}", state_.step, unsaved);
  throw dist::AgreedError(ErrorKind::kCheckpoint,
                          what + ". Make room on the disk of run.dir; starting again goes on from the checkpoint");
}

TrainResult Trainer::stopped_result(int reason) {
  const int signal = stop_for(reason);
  return {.signal = signal, .unsaved = keeper_.failure()};
}

void Trainer::save_what_failed() {
  if (keeper_.failure().empty()) return;
  save();
  finish_save();
}

// checkpoint.on_error lets training go on, but at its end nothing comes that would write what it has learned.
void Trainer::require_last_checkpoint() {
  if (keeper_.failure().empty()) return;
  throw dist::AgreedError(
      ErrorKind::kCheckpoint,
      fmt::format("{}. The run is finished and its table is in {}/report.md, but {}: starting again trains from there",
                  keeper_.failure(), options_.run.dir,
                  keeper_.saved_step() >= 0
                      ? fmt::format("its newest checkpoint is that of step {}", keeper_.saved_step())
                      : "it has no checkpoint"));
}

}  // namespace qat
