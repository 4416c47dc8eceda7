// How the losses of one pass's tokens become part of a step's: as a sum over a count that all its passes share, so that
// passes with unequally many valid targets add up to the mean over the valid targets of the global batch.
#pragma once

#include <cstdint>

namespace qat {

struct LossScale {
  // What the pass's sum of losses is divided by. In a step of M micro-batches whose gradients are averaged afterwards:
  // the valid targets of the global batch / M. 0: as many as the pass has targets, masked or not.
  double tokens = 0.0;
  double weight = 1.0;  // of the cross-entropy in gradients, weight * sum / tokens; the loss that is told has none

  double divisor(std::int64_t targets) const { return tokens > 0.0 ? tokens : static_cast<double>(targets); }
};

}  // namespace qat
