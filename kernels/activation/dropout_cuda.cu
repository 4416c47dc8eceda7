#include "kernels/activation/dropout_cuda.h"
#include "kernels/common/cuda_check.h"
#include "kernels/common/float_vectors.cuh"

namespace qat::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kDraws = 4;  // of one Philox block, and elements of one thread

// n: elements; y may be x.
template <typename T>
__global__ __launch_bounds__(kThreads) void dropout_kernel(const T* x, float p, float scale, RngKey key, T* y,
                                                           std::int64_t n) {
  const std::int64_t block = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t first = block * kDraws;
  if (first >= n) return;
  const Philox4 words = philox(key, static_cast<std::uint64_t>(block));
#pragma unroll
  for (int i = 0; i < kDraws; ++i) {
    if (first + i >= n) return;
    const float value = to_float(x[first + i]);
    y[first + i] = from_float<T>(uniform01(words.v[i]) < p ? 0.0F : value * scale);
  }
}

template <typename T>
void run(const Exec& exec, const ConstFloatMatrix& x, float p, RngKey key, const FloatMatrix& y) {
  const std::int64_t blocks = (x.size() + kThreads * kDraws - 1) / (kThreads * kDraws);
  dropout_kernel<T><<<static_cast<unsigned>(blocks), kThreads, 0, cuda_stream(exec)>>>(
      static_cast<const T*>(x.data), p, 1.0F / (1.0F - p), key, static_cast<T*>(y.data), x.size());
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void dropout_cuda(const Exec& exec, ConstFloatMatrix x, float p, RngKey key, FloatMatrix y) {
  if (x.size() == 0) return;
  x.dtype == DType::kBFloat16 ? run<__nv_bfloat16>(exec, x, p, key, y) : run<float>(exec, x, p, key, y);
}

}  // namespace qat::kernels
