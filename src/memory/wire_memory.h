// What a rank keeps for gradients that travel (src/train/gradient_sync.h).
#pragma once

#include <cstdint>
#include <vector>

#include "src/memory/memory_model.h"

namespace qat {

// trained: parameters that this rank has gradients of; largest: of the largest tensor among them. coded: products read
// codes by row, so that weights may come back as codes.
std::vector<MemoryConsumer> wire_memory(const CommConfig& comm, std::int64_t trained, std::int64_t largest, bool coded,
                                        int ranks);

}  // namespace qat
