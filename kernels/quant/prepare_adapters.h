// What products on codes read of low-rank adapters y += scaling * (x A^T) B^T, A: [r, K], B: [N, r], of many layers at
// once: on a GPU two launches for up to fifty of them.
//
//   A^ = sA kA, B^ = sB kB        codes per row, as encode_rows (encode.h) gives them, bit for bit
//   a_values[k,j]       = kA[j,k]                                     whole numbers up to 127, which bf16 holds
//   b_values[n,j]       = kB[n,j] * (sB[n] * scaling)                 scaling * B^
//   b_over_scales[n,j]  = kB[n,j] * ((sB[n] * scaling) / weight_scales[n])
//
// Every operation is rounded to fp32 in the order written, and the result to the output's dtype.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"
#include "kernels/common/view.h"
#include "kernels/quant/encode.h"

namespace qat::kernels {

struct AdapterJob {
  Matrix<const float> a;                 // [r, K]
  Matrix<const float> b;                 // [N, r]
  EncodeOptions options;                 // of both; ties to even, amax_floor kGradientAmaxFloor or more
  std::span<const float> weight_scales;  // [N], of the codes of the layer's weight
  float scaling = 1.0F;                  // alpha / r
  Matrix<std::int8_t> a_codes;           // [r, K]
  std::span<float> a_scales;             // [r]
  FloatMatrix a_values;       // [K, r], dense, as the next two; fp32, on a GPU also bf16, the same in all jobs
  FloatMatrix b_values;       // [N, r]
  FloatMatrix b_over_scales;  // [N, r]
};

// On a GPU r and K are multiples of 8, r is at most 64, and matrices begin on 16-byte boundaries. Throws
// Error(kInternal) for what is not so.
void prepare_adapters(const Exec& exec, std::span<const AdapterJob> jobs);

}  // namespace qat::kernels
