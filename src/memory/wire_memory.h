// What a rank keeps for gradients that travel (src/train/gradient_sync.h).
#pragma once

#include <cstdint>
#include <vector>

#include "src/memory/memory_model.h"

namespace qat {

// trained: parameters that this rank has gradients of; largest: of the largest tensor among them.
std::vector<MemoryConsumer> wire_memory(const CommConfig& comm, std::int64_t trained, std::int64_t largest, int ranks);

}  // namespace qat
