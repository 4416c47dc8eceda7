// New tokens' keys and values, written where cached_attention.h reads them: as floats, or as codes.
//
//   s[b,h] = max(max_c |x[b, h D + c]|, 1e-5) / q_max;   codes[row, h D + c] = rint(x[b, h D + c] (1 / s[b,h]))
//   scales[2 row + h] = s[b,h]                           row = rows[b];  h: 0 of the key, 1 of the value
//
// for each token b: codes and scales have the bits that encode_rows (kernels/quant/encode.h) gives for keys and values
// as rows of their own.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/bit_width.h"
#include "kernels/common/exec.h"
#include "kernels/common/view.h"

namespace qat::kernels {

// x: [B, 2 D], keys and beside them values, rows may have gaps; fp32, or on a GPU bf16. rows: [B], different ones, each
// below the number of kept tokens N (on a GPU that is not looked at). codes: [N, 2 D]; scales: [2 N]. width: 2 to 8.
void keep_tokens(const Exec& exec, ConstFloatMatrix x, BitWidth width, std::span<const std::int64_t> rows,
                 Matrix<std::int8_t> codes, std::span<float> scales);

// As they are. kept: [N, 2 D], dense, of x's dtype.
void keep_tokens(const Exec& exec, ConstFloatMatrix x, std::span<const std::int64_t> rows, FloatMatrix kept);

}  // namespace qat::kernels
