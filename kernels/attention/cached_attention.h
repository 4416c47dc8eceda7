// Attention of one new token of each sequence over the tokens that are kept of it, its own among them:
//
//   s[t] = (q . k[t]) / sqrt(d_h)  for t < length;   y = sum_t softmax(s)[t] v[t]      for each sequence and head
//
// Kept keys and values are floats, or int8 codes with one scale for a token's key (all heads) and one for its value:
// k[t] = scales[t,0] codes[t, 0..D-1], v[t] = scales[t,1] codes[t, D..2D-1].
//
// What a sequence gets depends on nothing but that sequence: the same bits whatever stands beside it, and however much
// room there is. Arithmetic is fp32; a GPU adds in another order than a CPU.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"
#include "kernels/common/view.h"

namespace qat::kernels {

// Tokens of B sequences of up to `capacity` each: row b * capacity + t is token t of sequence b, its key in columns
// 0..D-1 and its value in columns D..2D-1.
struct KeptTokens {
  const void* data = nullptr;     // [B * capacity, 2 D], dense
  DType dtype = DType::kFloat32;  // fp32, bf16 (on a GPU) or int8
  std::span<const float> scales;  // of int8: [B * capacity * 2], a key's and then its value's; else empty
  std::int64_t capacity = 0;      // tokens
  // [B]: tokens that count, each from 1 to capacity; what lies behind is not read.
  std::span<const std::int64_t> lengths;
};

// q: [B, D], rows may have gaps; y: [B, D], dense. Both fp32, or on a GPU both bf16. heads divides D. On a GPU a
// head has up to 1024 elements (256 if their number is no multiple of 4), and capacity is at most 49152.
void cached_attention(const Exec& exec, ConstFloatMatrix q, const KeptTokens& kept, std::int64_t heads, FloatMatrix y);

}  // namespace qat::kernels
