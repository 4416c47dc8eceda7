// Calibrated activation ranges, and what running and learned ranges begin with: the same batches for every width,
// statistics reduced over the ranks.
//
// Training's ranges and evaluation's are two things. Training takes a range before the first step that uses its width,
// and again every quant.recalibrate_every steps; it is in force from then on and belongs to the checkpoint. Evaluation
// uses what training would use if it trained that width now; where training would have to calibrate first, evaluation
// calibrates for itself, with the weights at hand, and nothing of that ever reaches training.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "dist/control/stop_poll.h"
#include "dist/grid/process_grid.h"
#include "dist/watch/progress_board.h"
#include "src/base/log.h"
#include "src/data/sample_source.h"
#include "src/eval/width_eval.h"
#include "src/model/gpt2.h"
#include "src/train/calibration_report.h"

namespace qat {

struct CalibratorOptions {
  std::uint64_t seed = 1;
  std::int64_t batches = 10;
  CalibrationMethod method = CalibrationMethod::kMinMax;  // of calibrated ranges
  double percentile = 99.9;
  std::int64_t micro_batch_size = 1;
  std::int64_t sequence_length = 0;
  std::int64_t step_batches = 1;         // of a training step: what running ranges begin with
  dist::ProgressBoard* board = nullptr;  // where calibration is marked; null: nobody watches
};

// What the configuration says of it.
CalibratorOptions calibrator_options(const QuantConfig& quant, std::uint64_t seed, std::int64_t micro_batch_size,
                                     std::int64_t sequence_length, dist::ProgressBoard* board);

// The first sample of the calibration batches. They are far beyond the training run, so that the two do not march in
// step.
constexpr std::uint64_t kCalibrationSample = std::uint64_t{1} << 40U;

// The layers (indices in PrecisionMap, ascending) that have no range for their width in `precision`, or one from before
// the last multiple of `recalibrate_every` (0: ranges do not age) at `step`.
std::vector<std::int64_t> layers_to_calibrate(const Gpt2& model, const PrecisionMap& precision, std::int64_t step,
                                              std::int64_t recalibrate_every);

// What calibration found for some layers at the widths of a PrecisionMap.
struct Calibration {
  RangeTable ranges;
  std::map<std::int64_t, InputStatistics> inputs;
  // Of each of these layers that had a range already: the share of its inputs that lay beyond it.
  std::map<std::int64_t, double> beyond;
};

// Runs the calibration batches (no gradient, no dropout, adapters off). Collective; every rank ends with the same bits,
// whatever their number. On a grid of stages `layers` are this one's, and what is found is of them. A rank's failure
// (values that are not finite: kDiverged) is thrown on all. Nothing if `poll`, asked between batches, says stop.
// Changes nothing in the model. Percentiles and entropy go over the batches twice. first_sample: number of the first
// one of the batches.
std::optional<Calibration> calibrate(const Gpt2& model, const PrecisionMap& precision,
                                     const std::vector<std::int64_t>& layers, const SampleSource& sampler,
                                     const dist::Grid& grid, dist::StopPoll& poll, const CalibratorOptions& options,
                                     std::uint64_t first_sample = kCalibrationSample);

// The ranges of one run as it goes.
class Calibrator {
 public:
  // All of them outlive this.
  Calibrator(Gpt2& model, const QuantConfig& quant, const SampleSource& sampler, const dist::Grid& grid,
             dist::StopPoll& poll, Logger& log, const CalibratorOptions& options)
      : model_(model), quant_(quant), sampler_(sampler), grid_(grid), poll_(poll), log_(log), options_(options) {}

  // Puts in force what training step `step` (counted from 0), which begins with sample `first_sample`, needs and does
  // not have: running ranges begin with those of the step's own samples, all others with the calibration batches'.
  // Collective. False: the run is to stop, and nothing has changed.
  bool before_step(const PrecisionMap& precision, std::int64_t step, std::uint64_t first_sample = 0);
  // Told, on every rank, what before_step put in force on its stage.
  void set_on_report(std::function<void(const CalibrationReport&)> tell) { on_report_ = std::move(tell); }

  // Evaluation's own ranges at `widths` after `steps` steps of training: made where this state of training has none
  // yet. Collective; throws kDiverged on all ranks as calibrate() does. Null: the run is to stop.
  const EvaluationRanges* for_evaluation(const std::vector<EvaluatedAt>& widths, std::int64_t steps);
  // The same ahead of time, so that a checkpoint can hold them: a model that cannot be calibrated is only warned of,
  // for it must be saved all the same, and one that is to stop is saved without.
  void prepare_evaluation(const std::vector<EvaluatedAt>& widths, std::int64_t steps);
  // Those made after `steps` steps so far; none: there are none of that state of training.
  const EvaluationRanges& made_after(std::int64_t steps);

 private:
  Gpt2& model_;
  const QuantConfig& quant_;
  const SampleSource& sampler_;
  dist::Grid grid_;
  dist::StopPoll& poll_;
  Logger& log_;
  // Of this stage; whether any stage has some.
  std::vector<std::int64_t> layers_at(const PrecisionMap& precision, std::int64_t step, bool& anywhere) const;
  void begin_weights(const PrecisionMap& precision, std::int64_t step);
  void report(const PrecisionMap& precision, const Calibration& found, std::int64_t step, std::int64_t batches);

  CalibratorOptions options_;
  std::function<void(const CalibrationReport&)> on_report_;
  EvaluationRanges evaluation_;
  std::int64_t evaluated_after_ = -1;  // steps of training that evaluation_ belongs to
};

}  // namespace qat
