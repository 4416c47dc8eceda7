// JSON section "checkpoint".
#pragma once

#include <cstdint>

namespace qat {

struct CheckpointConfig {
  std::int64_t every = 0;  // steps between checkpoints; 0: only at the end
  int keep = 3;            // newest checkpoints kept; 0: all
};

}  // namespace qat
