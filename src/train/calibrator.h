// Calibrated activation ranges: the same batches for every width, statistics reduced over the ranks.
//
// Training's ranges and evaluation's are two things. Training takes a range before the first step that uses its width,
// and again every quant.recalibrate_every steps; it is in force from then on and belongs to the checkpoint. Evaluation
// uses what training would use if it trained that width now; where training would have to calibrate first, evaluation
// calibrates for itself, with the weights at hand, and nothing of that ever reaches training.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/control/stop_poll.h"
#include "dist/watch/progress_board.h"
#include "src/base/log.h"
#include "src/data/sample_source.h"
#include "src/eval/width_eval.h"
#include "src/model/gpt2.h"

namespace qat {

struct CalibratorOptions {
  std::uint64_t seed = 1;
  std::int64_t batches = 10;
  std::int64_t micro_batch_size = 1;
  std::int64_t sequence_length = 0;
  dist::ProgressBoard* board = nullptr;  // where calibration is marked; null: nobody watches
};

// The layers (indices in PrecisionMap, ascending) that have no range for their width in `precision`, or one from before
// the last multiple of `recalibrate_every` (0: ranges do not age) at `step`.
std::vector<std::int64_t> layers_to_calibrate(const Gpt2& model, const PrecisionMap& precision, std::int64_t step,
                                              std::int64_t recalibrate_every);

// What calibration found for some layers at the widths of a PrecisionMap.
struct Calibration {
  RangeTable ranges;
  // Of each of these layers that had a range already: the share of its inputs that lay beyond it.
  std::map<std::int64_t, double> beyond;
};

// Runs the calibration batches (no gradient, no dropout, adapters off). Collective; every rank ends with the same bits,
// whatever their number. A rank's failure (values that are not finite: kDiverged) is thrown on all. Nothing if `poll`,
// asked between batches, says stop. Changes nothing in the model.
std::optional<Calibration> calibrate(const Gpt2& model, const PrecisionMap& precision,
                                     const std::vector<std::int64_t>& layers, const SampleSource& sampler,
                                     dist::Communicator& comm, dist::StopPoll& poll, const CalibratorOptions& options);

// The ranges of one run as it goes.
class Calibrator {
 public:
  // All of them outlive this.
  Calibrator(Gpt2& model, const QuantConfig& quant, const SampleSource& sampler, dist::Communicator& comm,
             dist::StopPoll& poll, Logger& log, const CalibratorOptions& options)
      : model_(model), quant_(quant), sampler_(sampler), comm_(comm), poll_(poll), log_(log), options_(options) {}

  // Puts in force what training step `step` (counted from 0) needs and does not have. Collective. False: the run is to
  // stop, and nothing has changed.
  bool before_step(const PrecisionMap& precision, std::int64_t step);

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
  dist::Communicator& comm_;
  dist::StopPoll& poll_;
  Logger& log_;
  CalibratorOptions options_;
  EvaluationRanges evaluation_;
  std::int64_t evaluated_after_ = -1;  // steps of training that evaluation_ belongs to
};

}  // namespace qat
