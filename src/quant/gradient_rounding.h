// How backward of one product quantizes its incoming gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/common/bit_width.h"
#include "kernels/common/philox.h"
#include "kernels/quant/encode.h"

namespace qat {

struct GradientRounding {
  BitWidth width = BitWidth::full();
  bool stochastic = false;
  kernels::RngKey key{};  // of this layer's product in this micro-batch; dx and dw draw from different streams of it
};

// Streams of one layer's key; the top bits of the stream are free for this (src/base/rng.h mixes all 64).
enum class Draw : std::uint64_t { kInput = 1, kWeight = 2 };

inline kernels::EncodeOptions gradient_options(const GradientRounding& rounding, Draw draw) {
  return {
      .width = rounding.width,
      .amax_floor = kernels::kGradientAmaxFloor,
      .rounding = rounding.stochastic ? kernels::Rounding::kStochastic : kernels::Rounding::kNearestEven,
      .key = {.seed = rounding.key.seed, .stream = rounding.key.stream ^ (static_cast<std::uint64_t>(draw) << 62U)}};
}

// Whether backward at this width runs on codes, and wants transposed code copies from forward.
inline bool backward_on_codes(const GradientRounding& rounding) { return rounding.width.bits() <= 8; }

// A gradient's values rounded to `rounding`'s width with one dynamic scale per row (kInput: for dx) or column (kWeight:
// for dw), in g's dtype; g itself at 32 bits.   g: [M, N], contiguous.
at::Tensor rounded_gradient(const at::Tensor& g, const GradientRounding& rounding, Draw draw);
// The same per row, in place: what an adapter's matrices receive.   g: fp32, contiguous.
void round_gradient_(at::Tensor& g, const GradientRounding& rounding);

}  // namespace qat
