// AdamW (Loshchilov & Hutter, arXiv:1711.05101) on a flat range, and the sums of squares for clipping by global norm.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"

namespace qat::kernels {

// In double, as configured; what the kernels compute with is adamw_state.h's constants_of().
struct AdamWStep {
  double learning_rate = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.0;    // decoupled: p -= lr * wd * p
  double gradient_scale = 1.0;  // multiplies the gradient first (1/accumulation, clipping)
  std::int64_t step = 1;        // of these elements, counted from 1: bias correction
};

// p, g, m, v: [n], fp32, same length. g is read only.
//   m = b1 m + (1-b1) g';  v = b2 v + (1-b2) g'^2;  p -= lr * (m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps) + wd * p)
// In fp32, each operation rounded, in this order (u = 1/(1-b^t) and 1-b computed in double and rounded once):
//   g' = g * gradient_scale;  m = b1*m + (1-b1)*g';  v = b2*v + (1-b2)*(g'*g')
//   p = p - lr * ((m*u1) / (sqrt(v*u2) + eps) + wd*p)
// Element-wise: any cut of the range gives the same bits, on any device.
//
// Nothing that is not finite is ever written: an element whose new p, m or v would be a NaN or an infinity keeps its
// old three values, and *refused (on exec's device; null: nobody asks) becomes 1. Else *refused stays as it is.
void adamw_flat(const Exec& exec, std::span<float> p, std::span<const float> g, std::span<float> m, std::span<float> v,
                const AdamWStep& step, std::int32_t* refused = nullptr);

// partial[i] = sum of x^2 over block i of `block` elements (the last one may be short), in double: element j of a block
// is added, in index order, to one of 128 sums, that of j mod 128, and these are added as a balanced binary tree,
// ((s0+s1)+(s2+s3))+... That order is one a GPU's warp can keep too. Any cut of the range at multiples of `block` gives
// the same bits.   partial: [ceil(n / block)], on exec's device.
void block_sum_squares(const Exec& exec, std::span<const float> x, std::int64_t block, std::span<double> partial);

}  // namespace qat::kernels
