#include "src/train/tensor_memory.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>

namespace qat {

TensorMemory tensor_memory() {
  const auto device = static_cast<c10::DeviceIndex>(at::detail::getCUDAHooks().getCurrentDevice());
  const auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(device);
  const auto& held = stats.reserved_bytes[static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
  return {.now = held.current, .most = held.peak};
}

}  // namespace qat
