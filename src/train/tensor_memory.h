// What LibTorch's allocator holds of a GPU's memory: tensors, and what it keeps for the next ones.
#pragma once

#include <cstdint>

namespace qat {

struct TensorMemory {
  std::int64_t now = 0;   // bytes
  std::int64_t most = 0;  // since the program began
};

// Of the GPU that this process computes on; only where there is one.
TensorMemory tensor_memory();

}  // namespace qat
