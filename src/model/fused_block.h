// A transformer block on a GPU as two autograd functions around attention, with element-wise work fused into the
// quantization of what follows it. The same mathematics as Block's operator-by-operator body (block.cc), which every
// other configuration takes; tests hold the two together.
//
//   first half   r1 = r + delta;  q, k, v = c_attn(encode(norm_1(r1)))
//   attention    LibTorch's scaled dot product
//   second half  r2 = r1 + c_proj(encode(attended));  delta = mlp.c_proj(encode(gelu(c_fc(encode(norm_2(r2))))))
//
// The residual stream travels as the pair (r, delta) whose sum it is, so that the addition happens inside the next
// norm.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/common/philox.h"
#include "src/quant/linear_pass.h"

namespace qat {

struct FusedNorm {
  at::Tensor weight, bias;  // fp32 [d]
};

// Of what the block's two output projections add to the residual stream.
struct BlockDropout {
  double p = 0.0;
  kernels::RngKey attn_out{}, mlp_out{};
};

// What a block is made of.
struct FusedBlock {
  FusedNorm ln_1;
  LinearPass c_attn;
  LinearPass attn_proj;
  FusedNorm ln_2;
  LinearPass c_fc, mlp_proj;
  BlockDropout dropout;
};

struct ResidualPair {
  at::Tensor residual;  // [M, d]
  at::Tensor delta;     // [M, d], or undefined: zero
};
at::Tensor sum_of(const ResidualPair& pair);

// q, k, v: [M, d] each, views of one buffer.
struct FirstHalf {
  at::Tensor residual, q, k, v;
};
FirstHalf fused_first_half(const ResidualPair& x, const FusedNorm& norm, const LinearPass& c_attn);

// attended: [M, d]. Without `keep_gelu` backward makes GELU's output again from its input instead of keeping it.
ResidualPair fused_second_half(const at::Tensor& residual, const at::Tensor& attended, const FusedBlock& block,
                               bool keep_gelu = true);

// norm(residual + delta): [M, d].
at::Tensor fused_norm(const ResidualPair& x, const FusedNorm& norm);

}  // namespace qat
