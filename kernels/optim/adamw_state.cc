#include "kernels/optim/adamw_state.h"

#include <cmath>

namespace qat::kernels {

AdamWConstants constants_of(const AdamWStep& step) {
  // In double: 1 - 0.999^1 in fp32 would lose four of its digits.
  const double beta1 = step.beta1, beta2 = step.beta2, t = static_cast<double>(step.step);
  return {step.gradient_scale,
          step.beta1,
          static_cast<float>(1.0 - beta1),
          step.beta2,
          static_cast<float>(1.0 - beta2),
          static_cast<float>(1.0 / (1.0 - std::pow(beta1, t))),
          static_cast<float>(1.0 / (1.0 - std::pow(beta2, t))),
          step.eps,
          step.learning_rate,
          step.weight_decay};
}

}  // namespace qat::kernels
