// A transformer block on a GPU as two autograd functions around attention, with element-wise work fused into the
// quantization of what follows it. The same mathematics as Gpt2's operator-by-operator path (gpt2.cc), which every
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

#include <memory>
#include <vector>

#include "kernels/common/philox.h"
#include "src/quant/prepared_linear.h"

namespace qat {

// One linear layer in a pass: its prepared weights, how its gradients round, and its parameters for autograd.
struct FusedLinear {
  std::shared_ptr<const PreparedLinear> prepared;
  LinearRounding rounding;
  BitWidth activation = BitWidth::full();
  std::vector<at::Tensor> parameters;  // weight, bias, then LoRA's A and B if the adapter is on
  LinearPlaces places;                 // where backward is to write their gradients
};

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
  FusedLinear c_attn;
  FusedLinear attn_proj;
  FusedNorm ln_2;
  FusedLinear c_fc, mlp_proj;
  BlockDropout dropout;

  std::vector<at::Tensor> parameters() const;
};

struct ResidualPair {
  at::Tensor residual;  // [M, d]
  at::Tensor delta;     // [M, d], or undefined: zero
};

// q, k, v: [M, d] each, views of one buffer.
struct FirstHalf {
  at::Tensor residual, q, k, v;
};
FirstHalf fused_first_half(const ResidualPair& x, const FusedNorm& norm, const FusedLinear& c_attn);

// attended: [M, d]. Without `keep_gelu` backward makes GELU's output again from its input instead of keeping it.
ResidualPair fused_second_half(const at::Tensor& residual, const at::Tensor& attended, const FusedBlock& block,
                               bool keep_gelu = true);

// norm(residual + delta): [M, d].
at::Tensor fused_norm(const ResidualPair& x, const FusedNorm& norm);

}  // namespace qat
