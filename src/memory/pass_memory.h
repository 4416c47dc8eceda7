// What one forward and backward pass takes besides parameters and their gradients.
#pragma once

#include <cstdint>
#include <string>

#include "src/config/run_config.h"
#include "src/quant/precision_map.h"

namespace qat {

struct PassMemory {
  std::int64_t kept = 0;     // for backward: activations
  std::int64_t working = 0;  // at the worst moment inside a block, beyond what is kept
  std::int64_t loss = 0;     // output projection and loss: logits of a chunk, the hidden states and their gradient
};

// What a pass looks at.
struct PassShape {
  const RunConfig& config;
  PrecisionMap precision;      // of every quantized linear layer
  std::int64_t sequences = 1;  // in the pass
  bool cuda = false;
  bool training = true;       // else nothing is kept
  std::int64_t teachers = 0;  // whose logits stand beside the pass's

  std::int64_t tokens() const { return sequences * config.data.sequence_length; }
  std::int64_t float_bytes() const;  // of an activation
};

// A pass as training at `bits` or evaluation at `bits` runs it (32: unquantized).
PassShape training_pass(const RunConfig& config, bool cuda, int bits);
PassShape evaluation_pass(const RunConfig& config, bool cuda, int bits);

// The same at a map of layers' widths (src/bitmap/bitmap_text.h).
PassShape map_pass(const RunConfig& config, bool cuda, const std::string& map, bool training);

PassMemory pass_memory(const PassShape& pass);

// Whether all its blocks are fused (src/model/block.h).
bool is_fused(const PassShape& pass);

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
