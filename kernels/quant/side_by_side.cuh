// The parts of a gradient as kernels read them.
#pragma once

#include <cstdint>

#include "kernels/quant/code_passes_cuda.h"

namespace qat::kernels {

// Up to three matrices side by side, as the device sees them: part p holds columns end[p - 1] .. end[p] - 1.
struct SideBySide {
  const void* data[3];
  std::int64_t stride[3];
  std::int64_t end[3];
};
inline SideBySide side_by_side(const GradientColumns& x) {
  SideBySide result{};
  std::int64_t end = 0;
  for (int p = 0; p < 3; ++p) {
    const ConstFloatMatrix& part = x.parts[static_cast<std::size_t>(p < x.count ? p : 0)];
    if (p < x.count) end += part.cols;
    result.data[p] = part.data;
    result.stride[p] = part.stride;
    result.end[p] = end;
  }
  return result;
}
// The elements of column c, `stride` apart.
template <typename T>
struct Column {
  const T* first;
  std::int64_t stride;
  __device__ Column(const SideBySide& x, std::int64_t c) {
    const int p = c < x.end[0] ? 0 : c < x.end[1] ? 1 : 2;
    const void* data = p == 0 ? x.data[0] : p == 1 ? x.data[1] : x.data[2];
    const std::int64_t begin = p == 0 ? 0 : p == 1 ? x.end[0] : x.end[1];
    first = static_cast<const T*>(data) + (c - begin);
    stride = p == 0 ? x.stride[0] : p == 1 ? x.stride[1] : x.stride[2];
  }
  __device__ const T* row(std::int64_t r) const { return first + r * stride; }
};

}  // namespace qat::kernels
