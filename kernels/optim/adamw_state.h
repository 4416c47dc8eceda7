// What the CPU and the CUDA half of AdamW share. Internal to kernels/optim.
#pragma once

#include <span>

#include "kernels/optim/adamw_flat.h"

namespace qat::kernels {

struct AdamWState {
  std::span<float> p;
  std::span<const float> g;
  std::span<float> m;
  std::span<float> v;
};

// A step's constants, computed in double and rounded to fp32 once: on the host for both devices, for the powers of two
// mathematics libraries may differ in the last bit.
struct AdamWConstants {
  float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
  float unbias1, unbias2;  // 1 / (1 - beta^t)
  float eps, learning_rate, weight_decay;
};

AdamWConstants constants_of(const AdamWStep& step);

}  // namespace qat::kernels
