// encode_rows (encode.h) of many matrices at once: on a GPU a launch for all of them, where one each would cost more
// than the work itself for the small ones.
#pragma once

#include <span>

#include "kernels/common/exec.h"
#include "kernels/common/view.h"
#include "kernels/quant/encode.h"

namespace qat::kernels {

struct EncodeRowsJob {
  ConstFloatMatrix x;  // [rows, cols], dense
  EncodeOptions options;
  CodesOut out;             // [rows, cols] and [cols, rows]; either may be empty, not both
  std::span<float> scales;  // [rows], written
};

// Codes and scales of every job are those of encode_rows, bit for bit. No job's output may overlap another job's
// memory. Throws Error(kInternal) for shapes, widths and dtypes that encode_rows refuses.
void encode_rows_batch(const Exec& exec, std::span<const EncodeRowsJob> jobs);

}  // namespace qat::kernels
