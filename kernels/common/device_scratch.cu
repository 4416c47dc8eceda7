#include <mutex>
#include <set>

#include "kernels/common/cuda_allocation.h"
#include "kernels/common/device_scratch.h"

namespace qat::kernels {
namespace {

// A pool gives memory back to the driver at every synchronization unless it is told to keep it.
void keep_pool_memory() {
  static std::mutex mutex;
  static std::set<int> done;
  int device = 0;
  QAT_CUDA_CHECK(cudaGetDevice(&device));
  const std::lock_guard lock(mutex);
  if (!done.insert(device).second) return;
  cudaMemPool_t pool = nullptr;
  QAT_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, device));
  std::uint64_t all = ~std::uint64_t{0};
  QAT_CUDA_CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all));
}

}  // namespace

DeviceBytes::DeviceBytes(const Exec& exec, std::size_t bytes) : stream_(cuda_stream(exec)) {
  if (bytes == 0) return;
  keep_pool_memory();
  QAT_CUDA_ALLOCATE(bytes, cudaMallocAsync(&data_, bytes, stream_));
}

DeviceBytes::~DeviceBytes() {
  if (data_ != nullptr) (void)cudaFreeAsync(data_, stream_);
}

}  // namespace qat::kernels
