// Calibrated activation ranges: the same batches for every width, statistics reduced over the ranks.
#pragma once

#include "dist/comm/communicator.h"
#include "src/data/sampler.h"
#include "src/model/gpt2.h"

namespace qat {

struct CalibratorOptions {
  std::uint64_t seed = 1;
  std::int64_t batches = 10;
  std::int64_t micro_batch_size = 1;
  std::int64_t sequence_length = 0;
};

// Whether some activation quantizer uses calibrated ranges and has none for its width in `precision`.
bool needs_calibration(Gpt2& model, const PrecisionMap& precision);

// Runs the calibration batches (no gradient, no dropout, adapters off) and puts the ranges in force for the widths of
// `precision`. Collective; every rank ends with the same bits.
void calibrate(Gpt2& model, const PrecisionMap& precision, const Sampler& sampler, dist::Communicator& comm,
               const CalibratorOptions& options);

}  // namespace qat
