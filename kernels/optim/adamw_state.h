// What the CPU and the CUDA half of AdamW share. Internal to kernels/optim.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "kernels/optim/adamw_flat.h"

namespace qat::kernels {

struct AdamWState {
  std::span<float> p;
  std::span<const float> g;
  std::span<float> m;
  std::span<float> v;
  std::int32_t* refused = nullptr;
};

// A step's constants, computed in double and rounded to fp32 once: on the host for both devices, for the powers of two
// mathematics libraries may differ in the last bit.
//
// 1 - beta and the bias correction are those of the beta that fp32 holds, so that the three agree with each other. Only
// a beta that fp32 would round to 1 keeps its own: 1 - beta would be 0 and the correction infinite.
struct AdamWConstants {
  float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
  float unbias1, unbias2;  // 1 / (1 - beta^t)
  float eps, learning_rate, weight_decay;
};

AdamWConstants constants_of(const AdamWStep& step);

// Whether an element may take its new values. m needs no test of its own: if it is not finite, p is not either.
constexpr bool is_good(float p, float v) {
  constexpr float kMost = std::numeric_limits<float>::max();
  return static_cast<bool>(static_cast<int>(p <= kMost) & static_cast<int>(p >= -kMost) & static_cast<int>(v <= kMost));
}

}  // namespace qat::kernels
