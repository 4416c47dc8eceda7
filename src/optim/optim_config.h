// AdamW and clipping. JSON section "optim".
#pragma once

#include <array>

#include "src/base/named_enum.h"

namespace qat {

// What the deviation of gradient noise is a multiple of: the root mean square of the tensor's gradient, or 1.
enum class NoiseScale : unsigned char { kRelative, kAbsolute };
template <>
struct EnumNames<NoiseScale> {
  static constexpr std::array names{"relative", "absolute"};
};

// Whose norm gradients are clipped by: all of them one; each width's own parameters that of the mean loss of the passes
// that use them, and all others one; by auto the latter where an update trains several widths (recipes sp, spnet and
// instantnet).
enum class ClipScope : unsigned char { kAuto, kGlobal, kWidth };
template <>
struct EnumNames<ClipScope> {
  static constexpr std::array names{"auto", "global", "width"};
};

struct OptimConfig {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;      // decoupled; not on layer norms and biases
  double range_lr_factor = 0.01;  // times the learning rate: what quantizers train of their ranges
  double clip_norm = 1.0;         // gradients are scaled down to this norm; 0: no clipping
  ClipScope clip_scope = ClipScope::kAuto;
  // Normal noise on the gradients of updates at low widths (src/train/gradient_noise.h).
  double noise = 0.0;  // its deviation, in units of noise_scale; 0: none
  NoiseScale noise_scale = NoiseScale::kRelative;
  int noise_max_bits = 4;  // widest weights whose updates get it
};

}  // namespace qat
