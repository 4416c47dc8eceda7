// Everything that backward of a linear layer on codes needs from its output gradient g [M, N], in two reads of g:
//
//   rows     G1, s1 = codes per row    of g[m,n] * col_factors[n]   (encode_scaled_rows): for dX = s1 G1 qW
//   columns  G2, s2 = codes per column of g[m,n] * row_factors[m]   (encode_scaled_cols), transposed: for dW = s2 G2^T
//   qX sums     sum_m g[m,n]: the bias gradient
//
// The codes and scales are those of encode.h, bit for bit. Each of the three may be left out (empty views); of the
// columns also the codes alone, where somebody else who reads g will make them (adapter_backward.h).
#pragma once

#include <array>
#include <span>

#include "kernels/common/exec.h"
#include "kernels/common/view.h"
#include "kernels/quant/encode.h"

namespace qat::kernels {

// Up to three matrices of the same rows and dtype that stand side by side: [M, n0 + n1 + n2]. Rows may have gaps.
// (Attention gives the gradients of queries, keys and values apart; copying them together would be another pass.)
struct GradientColumns {
  std::array<ConstFloatMatrix, 3> parts;
  int count = 0;
};

struct GradientCodes {
  Matrix<std::int8_t> rows;             // G1: [M, N]
  std::span<float> row_scales;          // s1: [M]
  Matrix<std::int8_t> cols_transposed;  // G2^T: [N, M]; empty: scales at most
  std::span<float> col_scales;          // s2: [N]
  std::span<float> column_sums;         // [N], fp32; added in an order that the shape alone decides
};

struct GradientEncoding {
  std::span<const float> col_factors;  // [N], or empty: ones
  std::span<const float> row_factors;  // [M], or empty: ones
  EncodeOptions row_options;           // width, floor, rounding and draws of G1
  EncodeOptions col_options;           // of G2; draws are numbered by the element of g, not of its transpose
};

void encode_gradient(const Exec& exec, const GradientColumns& g, const GradientEncoding& encoding,
                     const GradientCodes& out);

// The same of g = dy * gelu'(x), where dy is the gradient of gelu(x): fuses gelu_backward (kernels/activation/gelu.h).
// g: [M, N], dense, dtype of dy and x; overwritten with the gradient of x; it may be dy.
void encode_gelu_gradient(const Exec& exec, ConstFloatMatrix dy, ConstFloatMatrix x, FloatMatrix g,
                          const GradientEncoding& encoding, const GradientCodes& out);

// sums[n] = sum_m g[m,n] in fp32, in an order that the shape alone decides: a bias gradient by itself.
void column_sums(const Exec& exec, const GradientColumns& g, std::span<float> sums);

}  // namespace qat::kernels
