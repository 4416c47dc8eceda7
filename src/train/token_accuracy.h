// How often the most likely token is the right one, of a training step's samples.
#pragma once

#include <cstdint>
#include <optional>

#include "dist/control/stop_poll.h"
#include "dist/grid/process_grid.h"
#include "src/data/sample_source.h"
#include "src/model/gpt2.h"

namespace qat {

struct AccuracyOf {
  std::uint64_t first_sample = 0;
  std::int64_t batch_size = 0;        // sequences, over all ranks
  std::int64_t micro_batch_size = 0;  // sequences a pass; they divide into equally many on every rank
  std::int64_t sequence_length = 0;
  std::uint64_t seed = 1;
};

// The share of targets that have the largest logit, with the parameters and ranges at hand: no gradient, no dropout.
// Collective; the same bits on any number of ranks. model: this rank's stage, of a language model. Nothing if `poll`,
// asked between passes, says stop. Throws on all ranks if one cannot read its tokens.
std::optional<double> token_accuracy(const Gpt2& model, const PrecisionMap& precision, const SampleSource& samples,
                                     const dist::Grid& grid, dist::StopPoll& poll, const AccuracyOf& of);

}  // namespace qat
