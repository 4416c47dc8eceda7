// Everything that backward of an adapter needs from the output gradient g [M, N] of its layer, in one read of g:
//
//   dh[m,j] = sum_n g[m,n] * b[n,j]                                   the gradient of h, rounded to g's dtype
//   db[n,j] = scaling * sum_m g[m,n] * (h[m,j] * x_scales[m])         the factor in brackets rounded to g's dtype
//
// Rows of db are then replaced by the values of their codes, as encode_rows and decode_rows give them. dh is coded as
// encode_gradient codes a gradient, once for each of the products that read it:
//
//   rows     k, s = codes per row of dh[m,j] * a_scales[j]:  dx_term[m,j] = k * (s[m] / g_row_scales[m])
//   columns  codes per column of dh[m,j] * x_scales[m], transposed
//
// The codes of g's own columns, which the product for a trained dW reads, come from the same read where they are
// wanted:
//
//   codes_transposed[n,m] = the code of g[m,n] * x_scales[m] that encode_gradient writes to cols_transposed
//
// dx_term is the adapter's part of dX as code_matmul_adapter takes it: inside the row scales of g's own codes. Codes
// and scales are those of encode.h; sums are fp32, in an order that the shapes alone decide.
#pragma once

#include <span>

#include "kernels/gemm/code_matmul_adapter.h"
#include "kernels/quant/encode_gradient.h"

namespace qat::kernels {

struct AdapterBackwardOperands {
  ConstFloatMatrix b;                   // [N, r], dense, dtype of g
  ConstFloatMatrix h;                   // [M, r], dense, dtype of g: (x A^T) without x's row scales
  std::span<const float> x_scales;      // [M]: the row scales of x
  std::span<const float> a_scales;      // [r]: the row scales of A
  std::span<const float> g_row_scales;  // [M]: the row scales of g's codes (GradientCodes::row_scales)
  float scaling = 1.0F;
};

struct AdapterBackwardOptions {
  EncodeOptions rows;  // of dh, for dx_term; draws are numbered by the element of dh
  EncodeOptions cols;  // of dh, for dh_cols_transposed; the same numbers
  EncodeOptions db;    // draws are numbered by the element of db; at full width db stays as it is
};

struct AdapterGradients {
  Matrix<float> db;                        // [N, r]
  FloatMatrix dx_term;                     // [M, r], dense, dtype of g
  Matrix<std::int8_t> dh_cols_transposed;  // [r, M]
  std::span<float> dh_col_scales;          // [r]
};

struct AdapterColumns {
  EncodeOptions options;                 // draws are numbered by the element of g
  std::span<const float> scales;         // [N]: GradientCodes::col_scales of g with x_scales as its row factors
  Matrix<std::int8_t> codes_transposed;  // [N, M]; empty: not wanted
};

// Whether this device has a kernel for these shapes: CPUs take all of fp32, GPUs of sm_90 bf16 whose rows have no odd
// ends (columns, strides and rank are multiples of 8, the parts start on 16 bytes), for ranks up to kMaxAdapterRank.
bool takes_adapter_backward(const Exec& exec, const GradientColumns& g, std::int64_t rank);

void adapter_backward(const Exec& exec, const GradientColumns& g, const AdapterBackwardOperands& operands,
                      const AdapterBackwardOptions& options, const AdapterGradients& out,
                      const AdapterColumns& columns = {});

}  // namespace qat::kernels
