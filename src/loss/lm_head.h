// The output projection as the loss uses it: a chunk of tokens at a time, forward and backward.
//
//   plain:  z = h W^T
//   codes:  z = h^ W^^T + (alpha / r) (h^ A^^T) B^^T        ^: quantized; one scale a token, a row of W, A and B
//
// Backward multiplies in h's dtype with the quantized values and an unquantized dz, on codes too: dz has a column for
// each word, so that coding it would cost more than the integer products save.
//
//   dh = dz W^ + dl A^     dW = dz^T h^     dA = dl^T h^     dB = (alpha / r) dz^T (h^ A^^T)     dl = dz (alpha / r) B^
//
// Shape letters: M tokens of a chunk, V vocabulary, d width, r rank; Vp: V and the padding's rows.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "kernels/common/bit_width.h"
#include "src/loss/head_chunk.h"
#include "src/quant/quantizer.h"

namespace qat {

struct HeadAdapter {
  Coded a;                   // [r, d]
  at::Tensor a_values;       // A^ in h's dtype
  at::Tensor b;              // (alpha / r) B^ in h's dtype, [Vp, r]
  at::Tensor b_over_scales;  // over W's scales, where one product serves head and adapter, else undefined
  double scaling = 0.0;      // alpha / r
};

struct HeadCodes {
  Coded weight;  // [Vp, d]
  BitWidth activation = BitWidth::full();
  std::optional<HeadAdapter> adapter;
};

struct LmHead {
  at::Tensor weight;               // the fp32 parameter that the gradient goes to, [V, d]
  at::Tensor weight_place;         // where its gradient is to be written, fp32 [V, d]; undefined: new memory
  at::Tensor lora_a, lora_b;       // the adapter's parameters; undefined without one
  at::Tensor values;               // W or W^ in h's dtype, [Vp, d]; with codes only backward needs it
  std::optional<HeadCodes> codes;  // none: plain

  std::int64_t classes() const { return weight.size(0); }
  std::int64_t rows() const { return codes ? codes->weight.codes.size(0) : values.size(0); }
};

// w: [V, d] -> [Vp, d] in `dtype`; itself if it is that already.
at::Tensor padded_head(const at::Tensor& w, at::ScalarType dtype);
// Codes of w's rows, padded likewise.
Coded padded_head_codes(const at::Tensor& w, BitWidth width);
// a: [r, d], b: [V, r], fp32.   weight: padded_head_codes'.   dtype: of h.
HeadAdapter head_adapter(const at::Tensor& a, const at::Tensor& b, BitWidth width, double scaling, const Coded& weight,
                         at::ScalarType dtype);

// One chunk's way through the head.
struct HeadPass {
  at::Tensor logits;  // [M, Vp] in h's dtype
  at::Tensor h;       // plain: [M, d]
  Coded codes;        // of h
  at::Tensor low;     // h^ A^^T: [M, r]; without h's scales if adapter->b_over_scales is defined
};
HeadPass head_forward(const LmHead& head, const at::Tensor& h);

// Sums over the chunks in fp32; undefined: not wanted.
struct HeadGradients {
  at::Tensor weight, lora_a, lora_b;  // [V or Vp, d], [r, d], [Vp, r]
};
// Adds a chunk's. dz: [M, Vp]; dh: [M, d], overwritten, or undefined: not wanted.
void head_backward(const LmHead& head, const HeadPass& pass, const at::Tensor& dz, at::Tensor dh, HeadGradients& sums);

}  // namespace qat
