// Where LibTorch's tensors live.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>

namespace qat {

// From now on tensors are cut out of ordinary heap memory. LibTorch asks the C library for aligned memory, which glibc
// before 2.38 serves from a larger block whose rests it keeps apart: what one tensor leaves is then too small for the
// next one of the same size, and a training step takes twice the memory of its tensors. Alignment (64 bytes), values
// and speed stay. Once, before other threads exist.
//
// A tensor that does not fit throws Error(kOutOfMemory) with the bytes that it asked for.
void use_heap_for_tensors();

// Gives what the tensor library keeps for later use on a GPU back to the device; nothing on a CPU.
void release_cached_memory(c10::Device device);

// What this process has: on a GPU the bytes of tensors, and of what the tensor library keeps there for them; on a CPU
// the resident set.
struct MemoryInUse {
  std::int64_t bytes = 0;
  std::optional<std::int64_t> reserved_bytes;  // GPU only
};
// Costs microseconds. Nothing where the system does not say.
std::optional<MemoryInUse> memory_in_use(c10::Device device);

}  // namespace qat
