#include "kernels/common/cuda_allocation.h"
#include "kernels/common/cuda_check.h"
#include "kernels/common/cuda_device.h"
#include "kernels/common/cuda_versions.h"

namespace qat {
namespace {

cudaStream_t handle(StreamRef stream) { return static_cast<cudaStream_t>(stream.handle); }

std::string uuid_text(const cudaUUID_t& uuid) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    const auto byte = static_cast<unsigned char>(uuid.bytes[i]);
    text += kDigits[byte >> 4U];
    text += kDigits[byte & 15U];
  }
  return text;
}

void copy(void* destination, const void* source, std::size_t bytes, cudaMemcpyKind kind, StreamRef stream) {
  if (bytes > 0) QAT_CUDA_CHECK(cudaMemcpyAsync(destination, source, bytes, kind, handle(stream)));
}

}  // namespace

CudaVersions cuda_versions() noexcept {
  CudaVersions versions;
  if (cudaRuntimeGetVersion(&versions.runtime) != cudaSuccess) versions.runtime = -1;
  if (cudaDriverGetVersion(&versions.driver) != cudaSuccess || versions.driver == 0) versions.driver = -1;
  (void)cudaGetLastError();
  return versions;
}

int cuda_device_count() noexcept {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError();  // no driver, no device, or a driver too old for this program: as good as none
  return 0;
}

CudaDeviceInfo cuda_device_info(int device) {
  cudaDeviceProp properties{};
  QAT_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  return {.name = properties.name,
          .uuid = uuid_text(properties.uuid),
          .major = properties.major,
          .minor = properties.minor,
          .multiprocessors = properties.multiProcessorCount,
          .total_bytes = static_cast<std::int64_t>(properties.totalGlobalMem)};
}

void set_cuda_device(int device) { QAT_CUDA_CHECK(cudaSetDevice(device)); }

std::int64_t cuda_free_bytes() {
  std::size_t free = 0;
  std::size_t total = 0;
  QAT_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return static_cast<std::int64_t>(free);
}

void* cuda_allocate(std::size_t bytes) {
  void* data = nullptr;
  if (bytes > 0) QAT_CUDA_ALLOCATE(bytes, cudaMalloc(&data, bytes));
  return data;
}

void cuda_free(void* data) noexcept {
  if (data != nullptr) (void)cudaFree(data);  // fails when the process ends and the driver is gone already
}

void cuda_zero(void* data, std::size_t bytes, StreamRef stream) {
  if (bytes > 0) QAT_CUDA_CHECK(cudaMemsetAsync(data, 0, bytes, handle(stream)));
}

void cuda_copy(void* destination, const void* source, std::size_t bytes, StreamRef stream) {
  copy(destination, source, bytes, cudaMemcpyDeviceToDevice, stream);
}

void cuda_copy_to_host(void* destination, const void* source, std::size_t bytes, StreamRef stream) {
  copy(destination, source, bytes, cudaMemcpyDeviceToHost, stream);
  cuda_synchronize(stream);
}

void cuda_copy_to_device(void* destination, const void* source, std::size_t bytes, StreamRef stream) {
  copy(destination, source, bytes, cudaMemcpyHostToDevice, stream);
  cuda_synchronize(stream);
}

void cuda_synchronize(StreamRef stream) { QAT_CUDA_CHECK(cudaStreamSynchronize(handle(stream))); }

}  // namespace qat
