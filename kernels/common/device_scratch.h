// Uninitialized GPU working memory of one kernel call, ordered on its stream. For .cu files and tests.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/cuda_check.h"

namespace qat::kernels {

// From the device's memory pool (cudaMallocAsync), which keeps what is given back: after the first step of a run no
// call reaches the driver. Work already enqueued on the stream may still use the memory when the owner is destroyed.
class DeviceBytes {
 public:
  DeviceBytes(const Exec& exec, std::size_t bytes);
  ~DeviceBytes();
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  void* get() const noexcept { return data_; }

 private:
  void* data_ = nullptr;
  cudaStream_t stream_;
};

template <typename T>
class DeviceScratch {
 public:
  DeviceScratch(const Exec& exec, std::int64_t elems) : bytes_(exec, static_cast<std::size_t>(elems) * sizeof(T)) {}
  T* get() const noexcept { return static_cast<T*>(bytes_.get()); }

 private:
  DeviceBytes bytes_;
};

}  // namespace qat::kernels
