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
#include "kernels/common/view.h"

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

inline kernels::Exec cuda_exec() { return {.device = Device::kCuda}; }

// Memory of `elems` Ts. Poisoned with 0xFF bytes (NaN, -1) when nothing is uploaded, so that what is not written shows.
template <typename T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::int64_t elems) : elems_(elems) {
    QAT_CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&data_), bytes() + 16));
    QAT_CUDA_CHECK(cudaMemset(data_, 0xFF, bytes() + 16));
  }
  explicit DeviceBuffer(std::span<const T> values) : DeviceBuffer(static_cast<std::int64_t>(values.size())) {
    QAT_CUDA_CHECK(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice));
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(std::span<const T>(values)) {}
  ~DeviceBuffer() { (void)cudaFree(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  T* data() const { return data_; }
  std::span<T> span() const { return {data_, static_cast<std::size_t>(elems_)}; }
  Matrix<T> matrix(std::int64_t rows, std::int64_t cols) const { return {data_, rows, cols}; }
  std::vector<T> download() const {
    QAT_CUDA_CHECK(cudaDeviceSynchronize());
    std::vector<T> values(static_cast<std::size_t>(elems_));
    QAT_CUDA_CHECK(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  std::size_t bytes() const { return static_cast<std::size_t>(elems_) * sizeof(T); }
  T* data_ = nullptr;
  std::int64_t elems_;
};

// A float matrix on the GPU in fp32 or bf16, made from and read back as fp32.
class DeviceFloats {
 public:
  DeviceFloats(std::int64_t rows, std::int64_t cols, DType dtype)
      : rows_(rows), cols_(cols), dtype_(dtype), bytes_(rows * cols * static_cast<std::int64_t>(size_of(dtype))) {}
  DeviceFloats(const std::vector<float>& values, std::int64_t rows, std::int64_t cols, DType dtype)
      : DeviceFloats(rows, cols, dtype) {
    if (dtype == DType::kFloat32) {
      QAT_CUDA_CHECK(cudaMemcpy(bytes_.data(), values.data(), values.size() * 4, cudaMemcpyHostToDevice));
      return;
    }
    std::vector<std::uint16_t> halves(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) halves[i] = bf16_bits(values[i]);
    QAT_CUDA_CHECK(cudaMemcpy(bytes_.data(), halves.data(), halves.size() * 2, cudaMemcpyHostToDevice));
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
