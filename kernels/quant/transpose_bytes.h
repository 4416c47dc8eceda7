#pragma once

#include <cstdint>

namespace qat::kernels {

// out[c * out_stride + r] = in[r * in_stride + c] for r < rows, c < cols. Strides in bytes; in and out do not overlap.
void transpose_bytes(const std::int8_t* in, std::int64_t in_stride, std::int64_t rows, std::int64_t cols,
                     std::int8_t* out, std::int64_t out_stride);

}  // namespace qat::kernels
