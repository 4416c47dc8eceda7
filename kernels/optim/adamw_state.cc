#include "kernels/optim/adamw_state.h"

#include <cmath>

namespace qat::kernels {
namespace {

struct Decay {
  float beta, one_minus_beta, unbias;
};

Decay decay_of(double configured, std::int64_t step) {
  const auto rounded = static_cast<float>(configured);
  const double beta = rounded < 1.0F ? rounded : configured;
  // expm1 and log: 1 - pow would lose the digits of a beta near 1.
  const double bias = -std::expm1(static_cast<double>(step) * std::log(beta));
  return {rounded, static_cast<float>(1.0 - beta), static_cast<float>(1.0 / bias)};
}

}  // namespace

AdamWConstants constants_of(const AdamWStep& step) {
  const Decay first = decay_of(step.beta1, step.step), second = decay_of(step.beta2, step.step);
  return {static_cast<float>(step.gradient_scale),
          first.beta,
          first.one_minus_beta,
          second.beta,
          second.one_minus_beta,
          first.unbias,
          second.unbias,
          static_cast<float>(step.eps),
          static_cast<float>(step.learning_rate),
          static_cast<float>(step.weight_decay)};
}

}  // namespace qat::kernels
