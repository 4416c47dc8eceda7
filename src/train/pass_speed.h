// How fast a model's passes without gradient are, measured: nothing is multiplied by what hardware might do.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "src/eval/width_eval.h"
#include "src/model/gpt2.h"
#include "src/report/task_figures.h"

namespace qat {

struct SpeedOptions {
  std::int64_t batch = 8;         // sequences of a pass
  std::int64_t length = 0;        // tokens of each; at most what the model reads
  std::int64_t passes = 20;       // timed
  std::int64_t warm_up = 5;       // before them
  std::int64_t layer_passes = 0;  // more, in which the layers are timed one by one
  std::uint64_t seed = 1;         // of the tokens
  std::function<void()> beat;     // after every pass; null: nothing
};

// One rank's work. Passes from tokens to the logits of the last token of each sequence, with the weights made ready
// anew in none of them, one after the other: each is waited for. On a GPU the time is that between two marks in the
// stream.
SpeedFigures measure_passes(const Gpt2& model, const PrecisionMap& precision, const RangeTable* ranges,
                            const SpeedOptions& options);

// From the times of the passes, in milliseconds: at least one. Percentiles are the smallest time that so many percent
// of the passes do not exceed.
SpeedFigures speed_figures(std::vector<double> times_ms, const SpeedOptions& options);

}  // namespace qat
