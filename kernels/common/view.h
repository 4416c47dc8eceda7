// Non-owning views that cross every layer boundary, and where their bytes live.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace qat {

enum class Device : std::uint8_t { kCpu, kCuda };

// A CUDA stream seen from code that has no CUDA header; null is the default stream, and means nothing on a CPU.
struct StreamRef {
  void* handle = nullptr;
};

enum class DType : std::uint8_t { kFloat32, kFloat64, kBFloat16, kInt8, kInt32, kInt64, kUInt8 };

constexpr std::size_t size_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::kFloat64:
    case DType::kInt64:
      return 8;
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kBFloat16:
      return 2;
    case DType::kInt8:
    case DType::kUInt8:
      return 1;
  }
  return 0;
}

template <typename T>
constexpr DType dtype_of() noexcept {
  using U = std::remove_const_t<T>;
  if constexpr (std::is_same_v<U, float>)
    return DType::kFloat32;
  else if constexpr (std::is_same_v<U, double>)
    return DType::kFloat64;
  else if constexpr (std::is_same_v<U, std::int8_t>)
    return DType::kInt8;
  else if constexpr (std::is_same_v<U, std::int32_t>)
    return DType::kInt32;
  else if constexpr (std::is_same_v<U, std::int64_t>)
    return DType::kInt64;
  else {
    static_assert(std::is_same_v<U, std::uint8_t> || std::is_same_v<U, std::byte>, "no DType for this type");
    return DType::kUInt8;
  }
}

// A row-major matrix, rows contiguous and without gaps. T may be const.
template <typename T>
struct Matrix {
  T* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  constexpr std::int64_t size() const noexcept { return rows * cols; }
  constexpr bool empty() const noexcept { return data == nullptr || size() == 0; }
  constexpr T* row(std::int64_t r) const noexcept { return data + r * cols; }
  constexpr T& at(std::int64_t r, std::int64_t c) const noexcept { return data[r * cols + c]; }
  template <typename U>  // NOLINTNEXTLINE(google-explicit-constructor): as a pointer converts to const
  constexpr operator Matrix<U>() const noexcept requires(std::is_same_v<U, const T> && !std::is_const_v<T>) {
    return {data, rows, cols};
  }
};

// A row-major matrix of fp32 or bf16, chosen at run time: what activations are on a GPU (CPUs compute in fp32). Rows
// may have gaps: row r starts `stride` elements after row r - 1.
struct ConstFloatMatrix {
  const void* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;
  DType dtype = DType::kFloat32;

  ConstFloatMatrix() = default;
  ConstFloatMatrix(const void* data_in, std::int64_t rows_in, std::int64_t cols_in, std::int64_t stride_in, DType type)
      : data(data_in), rows(rows_in), cols(cols_in), stride(stride_in), dtype(type) {}
  ConstFloatMatrix(Matrix<const float> m)  // NOLINT(google-explicit-constructor): the fp32 case of the same thing
      : data(m.data), rows(m.rows), cols(m.cols), stride(m.cols) {}
  ConstFloatMatrix(Matrix<float> m)  // NOLINT(google-explicit-constructor): the same
      : ConstFloatMatrix(Matrix<const float>(m)) {}

  std::int64_t size() const noexcept { return rows * cols; }
  bool empty() const noexcept { return data == nullptr || size() == 0; }
  bool is_dense() const noexcept { return stride == cols; }
};

struct FloatMatrix {
  void* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;
  DType dtype = DType::kFloat32;

  FloatMatrix() = default;
  FloatMatrix(void* data_in, std::int64_t rows_in, std::int64_t cols_in, std::int64_t stride_in, DType type)
      : data(data_in), rows(rows_in), cols(cols_in), stride(stride_in), dtype(type) {}
  FloatMatrix(Matrix<float> m)  // NOLINT(google-explicit-constructor): the fp32 case of the same thing
      : data(m.data), rows(m.rows), cols(m.cols), stride(m.cols) {}

  std::int64_t size() const noexcept { return rows * cols; }
  bool empty() const noexcept { return data == nullptr || size() == 0; }
  bool is_dense() const noexcept { return stride == cols; }
  operator ConstFloatMatrix() const noexcept {  // NOLINT(google-explicit-constructor): as a pointer converts to const
    return {data, rows, cols, stride, dtype};
  }
};

// The fp32 matrix that CPU kernels work on. Throws Error(kInternal) for bf16 or rows with gaps.
Matrix<const float> require_fp32(const ConstFloatMatrix& m);
Matrix<float> require_fp32(const FloatMatrix& m);

// A flat typed buffer on some device: what collectives move.
struct BufferView {
  void* data = nullptr;
  std::int64_t elems = 0;
  DType dtype = DType::kUInt8;
  Device device = Device::kCpu;
  std::size_t bytes() const noexcept { return static_cast<std::size_t>(elems) * size_of(dtype); }
};

struct ConstBufferView {
  const void* data = nullptr;
  std::int64_t elems = 0;
  DType dtype = DType::kUInt8;
  Device device = Device::kCpu;
  ConstBufferView() = default;
  ConstBufferView(const void* data_in, std::int64_t elems_in, DType dtype_in, Device device_in = Device::kCpu)
      : data(data_in), elems(elems_in), dtype(dtype_in), device(device_in) {}
  ConstBufferView(const BufferView& other)  // NOLINT(google-explicit-constructor): as a pointer converts to const
      : data(other.data), elems(other.elems), dtype(other.dtype), device(other.device) {}
  std::size_t bytes() const noexcept { return static_cast<std::size_t>(elems) * size_of(dtype); }
};

// Host memory as a buffer: view(std::span(values)), view(values) for any contiguous container.
template <typename T>
BufferView view(std::span<T> values) requires(!std::is_const_v<T>) {
  return {values.data(), static_cast<std::int64_t>(values.size()), dtype_of<T>(), Device::kCpu};
}
template <typename T>
ConstBufferView view(std::span<const T> values) {
  return {values.data(), static_cast<std::int64_t>(values.size()), dtype_of<T>(), Device::kCpu};
}
template <typename Container>
auto view(Container& values) -> decltype(view(std::span(values))) {
  return view(std::span(values));
}

}  // namespace qat
