// What one forward and backward pass takes besides parameters and their gradients.
#pragma once

#include <cstdint>

#include "src/memory/pass_shape.h"

namespace qat {

struct PassMemory {
  std::int64_t kept = 0;     // for backward: activations of a pass through one chunk of the part, the largest
  std::int64_t working = 0;  // at the worst moment inside a block, beyond what is kept
  std::int64_t loss = 0;     // output projection and loss: logits of a chunk, the hidden states and their gradient
};

PassMemory pass_memory(const PassShape& pass);

// Weights in the form that products read, made once a step and shared by its passes: codes, or values of their own.
std::int64_t prepared_weight_bytes(const PassShape& pass);

// Gradients of all parameters that a pass returns in memory of its own, and what its backward holds twice for a
// moment.
struct PassGradients {
  std::int64_t all = 0;
  std::int64_t twice = 0;
};
PassGradients pass_gradients(const PassShape& pass);

}  // namespace qat
