// GPUs and their memory for code that sees no CUDA header. A program built without CUDA has these functions too: it
// counts no device, and everything else throws Error(kConfig).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/common/view.h"

namespace qat {

struct CudaDeviceInfo {
  std::string name;
  std::string uuid;  // "GPU-" and 32 hexadecimal digits in five groups, as nvidia-smi -L prints it
  int major = 0;     // compute capability
  int minor = 0;
  int multiprocessors = 0;
  std::int64_t total_bytes = 0;
};

// How many GPUs this process sees (CUDA_VISIBLE_DEVICES); 0 without a driver or a device. Never throws.
int cuda_device_count() noexcept;
CudaDeviceInfo cuda_device_info(int device);

// For the calling thread, until it says otherwise.
void set_cuda_device(int device);
// Of the calling thread's device; what the memory pools and LibTorch keep for later does not count as free.
std::int64_t cuda_free_bytes();

// Uninitialized, aligned to 256 bytes; null for 0 bytes. Throws Error(kOutOfMemory).
void* cuda_allocate(std::size_t bytes);
// Waits for the device. Null is allowed.
void cuda_free(void* data) noexcept;

// Ordered on the stream.
void cuda_zero(void* data, std::size_t bytes, StreamRef stream = {});
void cuda_copy(void* destination, const void* source, std::size_t bytes, StreamRef stream = {});  // GPU to GPU
// Ordered on the stream, and finished on return.
void cuda_copy_to_host(void* destination, const void* source, std::size_t bytes, StreamRef stream = {});
void cuda_copy_to_device(void* destination, const void* source, std::size_t bytes, StreamRef stream = {});
// Returns when all work on the stream is done.
void cuda_synchronize(StreamRef stream = {});

}  // namespace qat
