#include "kernels/activation/gelu_cuda.h"
#include "kernels/activation/gelu_math.cuh"
#include "kernels/common/cuda_check.h"
#include "kernels/common/float_vectors.cuh"

namespace qat::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 2;  // vectors a thread has under way, per input

// y = gelu(x), or dx = gelu'(x) * dy if dy is given. n: elements; the output may be an input, so nothing is
// __restrict__.
template <typename T, bool kBackward>
__global__ __launch_bounds__(kThreads) void gelu_kernel(const T* x, const T* dy, T* out, std::int64_t n) {
  const std::int64_t vectors = n / 8;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (kThreads * kUnroll) + threadIdx.x;
  Raw8<T> raw[kUnroll], gradient[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const std::int64_t vector = first + u * kThreads;
    if (vector >= vectors) continue;
    raw[u] = load8(x + vector * 8);
    if constexpr (kBackward) gradient[u] = load8(dy + vector * 8);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const std::int64_t vector = first + u * kThreads;
    if (vector >= vectors) continue;
    float values[8], g[8];
    unpack8(raw[u], values);
    if constexpr (kBackward) unpack8(gradient[u], g);
#pragma unroll
    for (int e = 0; e < 8; ++e) values[e] = kBackward ? g[e] * gelu_slope(values[e]) : gelu_value(values[e]);
    store8(out + vector * 8, pack8<T>(values));
  }
  const std::int64_t last = vectors * 8 + first;  // the last n % 8 elements, by the first threads
  if (first < n % 8) {
    const float value = to_float(x[last]);
    out[last] = from_float<T>(kBackward ? to_float(dy[last]) * gelu_slope(value) : gelu_value(value));
  }
}

template <typename T, bool kBackward>
__global__ __launch_bounds__(kThreads) void gelu_any_kernel(const T* x, const T* dy, T* out, std::int64_t n) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const float value = to_float(x[i]);
  out[i] = from_float<T>(kBackward ? to_float(dy[i]) * gelu_slope(value) : gelu_value(value));
}

template <typename T, bool kBackward>
void run(const Exec& exec, const void* x, const void* dy, void* out, std::int64_t n) {
  if (n == 0) return;
  const auto* from = static_cast<const T*>(x);
  const auto* gradient = static_cast<const T*>(dy);
  auto* to = static_cast<T*>(out);
  if (fits_vectors(x, 8) && fits_vectors(dy, 8) && fits_vectors(out, 8)) {
    const std::int64_t a_cta = 8 * kThreads * kUnroll;
    gelu_kernel<T, kBackward>
        <<<static_cast<unsigned>((n + a_cta - 1) / a_cta), kThreads, 0, cuda_stream(exec)>>>(from, gradient, to, n);
  } else {
    gelu_any_kernel<T, kBackward>
        <<<static_cast<unsigned>((n + kThreads - 1) / kThreads), kThreads, 0, cuda_stream(exec)>>>(from, gradient, to,
                                                                                                   n);
  }
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void gelu_cuda(const Exec& exec, ConstFloatMatrix x, FloatMatrix y) {
  if (x.dtype == DType::kBFloat16)
    run<__nv_bfloat16, false>(exec, x.data, nullptr, y.data, x.size());
  else
    run<float, false>(exec, x.data, nullptr, y.data, x.size());
}

void gelu_backward_cuda(const Exec& exec, ConstFloatMatrix dy, ConstFloatMatrix x, FloatMatrix dx) {
  if (x.dtype == DType::kBFloat16)
    run<__nv_bfloat16, true>(exec, x.data, dy.data, dx.data, x.size());
  else
    run<float, true>(exec, x.data, dy.data, dx.data, x.size());
}

}  // namespace qat::kernels
