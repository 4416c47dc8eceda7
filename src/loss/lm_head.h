// The output projection as the loss uses it: a chunk of tokens at a time, forward and backward; a quantized linear
// layer (src/quant/prepared_linear.h) whose rows are padded.
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
#include <memory>

#include "kernels/common/bit_width.h"
#include "src/loss/head_chunk.h"
#include "src/quant/linear_pass.h"

namespace qat {

struct LmHead {
  std::shared_ptr<const PreparedLinear> linear;  // weight: [Vp, d]; with codes its values, too, if there is a backward
  BitWidth activation = BitWidth::full();        // of h, with codes
  PassParameter weight;                          // fp32 [V, d]
  PassParameter lora_a, lora_b;                  // the adapter's; undefined without one
  bool weight_has_other_uses = false;            // in the same pass: the token embedding's
  GradientSink* sink = nullptr;                  // where the weight's gradient goes; null: new memory

  std::int64_t classes() const { return weight.tensor.size(0); }
  std::int64_t rows() const { return linear->out_features(); }
};

// w: [V, d] in `dtype`; itself, if it is that already and needs no padding.
PreparedLinear plain_head(const at::Tensor& w, at::ScalarType dtype);

struct HeadParameters {
  at::Tensor w;     // [V, d], fp32
  at::Tensor a, b;  // [r, d], [V, r], fp32; undefined without an adapter
  double alpha = 0.0;
};
// Codes of all of them, one scale a row.   dtype: of h.   backward: with the values that backward reads.
PreparedLinear coded_head(const HeadParameters& parameters, BitWidth width, at::ScalarType dtype, bool backward);

// One chunk's way through the head.
struct HeadPass {
  at::Tensor logits;  // [M, Vp] in h's dtype
  LinearSaved saved;
};
HeadPass head_forward(const LmHead& head, const at::Tensor& h);

// Adds a chunk's gradients of parameters to `sums`, which stand in fp32: weight [V or Vp, d], undefined if not wanted,
// A [r, d], B [V or Vp, r]. dz: [M, Vp]; dh: [M, d], overwritten.
void head_backward(const LmHead& head, const HeadPass& pass, const at::Tensor& dz, const at::Tensor& dh,
                   const LinearGradients& sums);

}  // namespace qat
