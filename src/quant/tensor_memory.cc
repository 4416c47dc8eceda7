#include "src/quant/tensor_memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>

#include "kernels/common/error.h"

namespace qat {
namespace {

constexpr std::size_t kAlignment = 64;  // as LibTorch's own: a cache line, and the widest vectors

class HeapAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, nullptr, &std::free, cpu};
    constexpr std::size_t kMost = std::numeric_limits<std::size_t>::max() - kAlignment;
    void* const block = bytes <= kMost ? std::malloc(bytes + kAlignment) : nullptr;
    if (block == nullptr)
      throw Error(ErrorKind::kOutOfMemory, "tried to allocate " + std::to_string(bytes) + " bytes for a tensor");
    const auto begin = reinterpret_cast<std::uintptr_t>(block);
    const std::uintptr_t aligned = (begin + kAlignment - 1) / kAlignment * kAlignment;
    return {static_cast<std::byte*>(block) + (aligned - begin), block, &std::free, cpu};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
};

}  // namespace

void use_heap_for_tensors() {
  static HeapAllocator allocator;  // LibTorch keeps the pointer
  c10::SetCPUAllocator(&allocator, /*priority=*/1);
}

void release_cached_memory(c10::Device device) {
  if (device.is_cuda()) c10::getDeviceAllocator(c10::kCUDA)->emptyCache();
}

std::optional<MemoryInUse> memory_in_use(c10::Device device) {
  if (device.is_cuda()) {
    const auto stats = c10::getDeviceAllocator(c10::kCUDA)->getDeviceStats(device.index());
    constexpr auto kAll = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    return MemoryInUse{.bytes = stats.allocated_bytes[kAll].current,
                       .reserved_bytes = stats.reserved_bytes[kAll].current};
  }
  std::FILE* file = std::fopen("/proc/self/statm", "re");  // pages: all, resident, ...
  if (file == nullptr) return std::nullopt;
  long long all = 0, resident = 0;
  const bool read = std::fscanf(file, "%lld %lld", &all, &resident) == 2;  // NOLINT(cert-err34-c): the kernel's numbers
  std::fclose(file);
  if (!read) return std::nullopt;
  return MemoryInUse{.bytes = resident * ::sysconf(_SC_PAGESIZE)};
}

}  // namespace qat
