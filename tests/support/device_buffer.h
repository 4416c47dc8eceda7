// Values on the GPU for tests: uploaded when made, downloaded on request, fp32 or bf16.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "kernels/common/cuda_check.h"
#include "kernels/common/device_scratch.h"
#include "kernels/common/device_stream.h"
#include "kernels/common/view.h"
#include "tests/support/busy_stream.h"

namespace qat::test {

inline std::uint16_t bf16_bits(float value) {
  auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>((bits >> 16U) | 0x40U);
  bits += 0x7FFFU + ((bits >> 16U) & 1U);  // ties to even
  return static_cast<std::uint16_t>(bits >> 16U);
}
inline float bf16_value(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U); }
// What a value is after it has been stored as `dtype` (fp32 or bf16).
inline float rounded_to(float value, DType dtype) {
  return dtype == DType::kBFloat16 ? bf16_value(bf16_bits(value)) : value;
}
inline std::vector<float> rounded_to(std::vector<float> values, DType dtype) {
  for (float& value : values) value = rounded_to(value, dtype);
  return values;
}

// The stream of all tests' work. The default stream is kept busy beside it, so that a kernel or copy that goes there
// instead is not done when a test looks at the result.
inline kernels::Exec test_stream() {
  static const DeviceStream stream(Device::kCuda);
  return {.device = Device::kCuda, .stream = stream.ref()};
}
inline kernels::Exec cuda_exec() {
  if (!is_busy({})) keep_busy({}, std::chrono::milliseconds(2));
  return test_stream();
}

// Memory of `elems` Ts. Poisoned with 0xFF bytes (NaN, -1) when nothing is uploaded, so that what is not written shows.
template <typename T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::int64_t elems) : elems_(elems), memory_(test_stream(), bytes() + 16) {
    QAT_CUDA_CHECK(cudaMemsetAsync(data(), 0xFF, bytes() + 16, cuda_stream(test_stream())));
  }
  explicit DeviceBuffer(std::span<const T> values) : DeviceBuffer(static_cast<std::int64_t>(values.size())) {
    upload(values.data(), bytes());
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(std::span<const T>(values)) {}
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  T* data() const { return static_cast<T*>(memory_.get()); }
  std::span<T> span() const { return {data(), static_cast<std::size_t>(elems_)}; }
  Matrix<T> matrix(std::int64_t rows, std::int64_t cols) const { return {data(), rows, cols}; }
  void upload(const void* values, std::size_t bytes) const {
    QAT_CUDA_CHECK(cudaMemcpyAsync(data(), values, bytes, cudaMemcpyHostToDevice, cuda_stream(test_stream())));
    QAT_CUDA_CHECK(cudaStreamSynchronize(cuda_stream(test_stream())));
  }
  std::vector<T> download() const {
    std::vector<T> values(static_cast<std::size_t>(elems_));
    QAT_CUDA_CHECK(cudaMemcpyAsync(values.data(), data(), bytes(), cudaMemcpyDeviceToHost, cuda_stream(test_stream())));
    QAT_CUDA_CHECK(cudaStreamSynchronize(cuda_stream(test_stream())));
    return values;
  }

 private:
  std::size_t bytes() const { return static_cast<std::size_t>(elems_) * sizeof(T); }
  std::int64_t elems_;
  kernels::DeviceBytes memory_;
};

// A float matrix on the GPU in fp32 or bf16, made from and read back as fp32.
class DeviceFloats {
 public:
  DeviceFloats(std::int64_t rows, std::int64_t cols, DType dtype)
      : rows_(rows), cols_(cols), dtype_(dtype), bytes_(rows * cols * static_cast<std::int64_t>(size_of(dtype))) {}
  DeviceFloats(const std::vector<float>& values, std::int64_t rows, std::int64_t cols, DType dtype)
      : DeviceFloats(rows, cols, dtype) {
    if (dtype == DType::kFloat32) {
      bytes_.upload(values.data(), values.size() * sizeof(float));
      return;
    }
    std::vector<std::uint16_t> halves(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) halves[i] = bf16_bits(values[i]);
    bytes_.upload(halves.data(), halves.size() * sizeof(std::uint16_t));
  }

  FloatMatrix view() const { return {bytes_.data(), rows_, cols_, cols_, dtype_}; }
  std::vector<float> download() const {
    const std::vector<std::uint8_t> raw = bytes_.download();
    std::vector<float> values(static_cast<std::size_t>(rows_ * cols_));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (dtype_ == DType::kFloat32) {
        std::memcpy(&values[i], raw.data() + i * 4, 4);
      } else {
        std::uint16_t half = 0;
        std::memcpy(&half, raw.data() + i * 2, 2);
        values[i] = bf16_value(half);
      }
    }
    return values;
  }

 private:
  std::int64_t rows_, cols_;
  DType dtype_;
  DeviceBuffer<std::uint8_t> bytes_;
};

}  // namespace qat::test
