// A matrix replaced by what its codes stand for: encode_rows followed by decode_rows (encode.h), bit for bit, in one
// pass and without memory for the codes.
//
//   x[r,c] = k[r,c] * s[r]
//
// Draws of stochastic rounding are numbered row * cols + col. A row with an infinity or a NaN becomes NaN.
#pragma once

#include "kernels/common/exec.h"
#include "kernels/common/view.h"
#include "kernels/quant/encode.h"

namespace qat::kernels {

// x: [rows, cols], in place. Widths 2..8 and an amax_floor of at least kGradientAmaxFloor, or else it throws
// Error(kInternal); at full precision nothing is done.
void round_rows(const Exec& exec, Matrix<float> x, const EncodeOptions& options);

}  // namespace qat::kernels
