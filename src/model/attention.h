// Causal self-attention of values that somebody else projects: knows no model and no layer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/common/philox.h"

namespace qat {

struct AttentionOptions {
  std::int64_t heads = 1;  // divides the width
  double dropout = 0.0;    // of the probabilities, with draws of `key`
  kernels::RngKey key{};
  bool repeatable = false;  // no kernel whose sums depend on timing
};

// softmax(q k^T / sqrt(D / H) + mask) v by heads: [B, T, D] each, rows may have gaps; the result is without.
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const AttentionOptions& options);

}  // namespace qat
