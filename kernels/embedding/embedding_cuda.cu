// Backward sorts (token, index) by token, keeping indices in order, and cuts the sorted list into windows of 64. A CTA
// adds the rows of a window one after the other. A run of equal tokens that lies in one window goes straight to the
// table; the pieces of a longer one go to `partial` and are added in order by a second kernel. No atomics: the order of
// addition is a function of the tokens.
#include <cuda_bf16.h>

#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "kernels/common/device_scratch.h"
#include "kernels/embedding/embedding_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kWindow = 64;

__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

// kElems (1 or 8) consecutive elements.
template <int kElems>
__device__ __forceinline__ void load_floats(const float* from, float (&v)[kElems]) {
  if constexpr (kElems == 1) {
    v[0] = from[0];
  } else {
    const float4 low = reinterpret_cast<const float4*>(from)[0];
    const float4 high = reinterpret_cast<const float4*>(from)[1];
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
    v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
  }
}
template <int kElems>
__device__ __forceinline__ void load_floats(const __nv_bfloat16* from, float (&v)[kElems]) {
  if constexpr (kElems == 1) {
    v[0] = to_float(from[0]);
  } else {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[2 * i] = __uint_as_float(words[i] << 16);
      v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
    }
  }
}
template <int kElems>
__device__ __forceinline__ void store_floats(float* to, const float (&v)[kElems]) {
  if constexpr (kElems == 1) {
    to[0] = v[0];
  } else {
    reinterpret_cast<float4*>(to)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4*>(to)[1] = make_float4(v[4], v[5], v[6], v[7]);
  }
}
template <int kElems>
__device__ __forceinline__ void store_floats(__nv_bfloat16* to, const float (&v)[kElems]) {
  if constexpr (kElems == 1) {
    to[0] = __float2bfloat16_rn(v[0]);
  } else {
    unsigned words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
      words[i] = *reinterpret_cast<const unsigned*>(&pair);
    }
    *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
  }
}
template <int kElems>
__device__ __forceinline__ void add_floats(float (&sum)[kElems], const float (&v)[kElems]) {
#pragma unroll
  for (int e = 0; e < kElems; ++e) sum[e] += v[e];
}

// A warp a row.
template <typename T, int kElems>
__global__ __launch_bounds__(256) void embed_kernel(const std::int64_t* tokens, std::int64_t length,
                                                    const float* token_table, const float* position_table, T* x,
                                                    std::int64_t rows, int cols) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * 8 + threadIdx.x / 32;
  if (row >= rows) return;
  const float* token = token_table + tokens[row] * cols;
  const float* position = position_table + row % length * cols;
  T* to = x + row * cols;
#pragma unroll 4
  for (int c = static_cast<int>(threadIdx.x % 32) * kElems; c < cols; c += 32 * kElems) {
    float a[kElems], b[kElems];
    load_floats<kElems>(token + c, a);
    load_floats<kElems>(position + c, b);
    add_floats(a, b);
    store_floats<kElems>(to + c, a);
  }
}

__global__ void pairs_kernel(const std::int64_t* tokens, int n, unsigned* keys, int* indices) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  keys[i] = static_cast<unsigned>(tokens[i]);
  indices[i] = i;
}

template <typename T>
struct TokenArgs {
  const T* dx;
  const unsigned* keys;  // sorted
  const int* indices;
  float* gradient;
  float* partial;  // [windows, 2, cols]: what the window adds to a run begun before it, and to one that outlasts it
  int n;
  int cols;
};

// A CTA a window; gridDim.y cuts the columns.
template <typename T, int kElems>
__global__ __launch_bounds__(256) void window_kernel(TokenArgs<T> args) {
  constexpr int kAhead = 8;               // rows under way
  __shared__ unsigned keys[kWindow + 2];  // with the neighbours
  __shared__ int indices[kWindow];
  const int begin = static_cast<int>(blockIdx.x) * kWindow;
  const int count = min(kWindow, args.n - begin);
  constexpr unsigned kNone = ~0U;  // no token: ids are below 2^31
  for (int i = static_cast<int>(threadIdx.x); i < kWindow + 2; i += static_cast<int>(blockDim.x)) {
    const int at = begin + i - 1;
    keys[i] = at >= 0 && at < args.n ? args.keys[at] : kNone;
    if (i < count) indices[i] = args.indices[begin + i];
  }
  __syncthreads();
  const int c = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * kElems;
  if (c >= args.cols) return;
  float* partial = args.partial + static_cast<std::int64_t>(blockIdx.x) * 2 * args.cols + c;
  float sum[kElems] = {};
  bool begun_before = keys[0] == keys[1];
  for (int base = 0; base < count; base += kAhead) {
    float rows[kAhead][kElems];
#pragma unroll
    for (int u = 0; u < kAhead; ++u)
      if (base + u < count)
        load_floats<kElems>(args.dx + static_cast<std::int64_t>(indices[base + u]) * args.cols + c, rows[u]);
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int i = base + u;
      if (i >= count) continue;
      add_floats(sum, rows[u]);
      const unsigned key = keys[i + 1];
      const bool ends = key != keys[i + 2];
      if (!ends && i + 1 < count) continue;
      if (begun_before) {
        store_floats<kElems>(partial, sum);
      } else if (!ends) {
        store_floats<kElems>(partial + args.cols, sum);
      } else {
        float* to = args.gradient + static_cast<std::int64_t>(key) * args.cols + c;
        float old[kElems];
        load_floats<kElems>(to, old);
        add_floats(old, sum);
        store_floats<kElems>(to, old);
      }
      begun_before = false;
#pragma unroll
      for (int e = 0; e < kElems; ++e) sum[e] = 0.0F;
    }
  }
}

// A CTA a window: if a run begins in it and outlasts it, the CTA adds the run's pieces.
template <int kElems>
__global__ __launch_bounds__(256) void long_run_kernel(TokenArgs<float> args) {
  const int windows = (args.n + kWindow - 1) / kWindow;
  const int end = (static_cast<int>(blockIdx.x) + 1) * kWindow;
  if (end >= args.n) return;
  const unsigned key = args.keys[end - 1];
  if (args.keys[end] != key) return;
  const int begin = end - kWindow;
  if (begin > 0 && args.keys[begin - 1] == key) return;  // it began earlier
  // The windows after this one whose first key is this one: sorted, so they are neighbours.
  int last = static_cast<int>(blockIdx.x);
  for (;;) {
    const int window = last + 1 + static_cast<int>(threadIdx.x);
    const int more = __syncthreads_count(window < windows && args.keys[window * kWindow] == key);
    last += more;
    if (more < static_cast<int>(blockDim.x)) break;
  }
  const int c = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * kElems;
  if (c >= args.cols) return;
  const std::int64_t step = 2 * static_cast<std::int64_t>(args.cols);
  const float* partial = args.partial + c;
  float sum[kElems];
  load_floats<kElems>(partial + blockIdx.x * step + args.cols, sum);
#pragma unroll 8
  for (int window = static_cast<int>(blockIdx.x) + 1; window <= last; ++window) {
    float piece[kElems];
    load_floats<kElems>(partial + window * step, piece);
    add_floats(sum, piece);
  }
  float* to = args.gradient + static_cast<std::int64_t>(key) * args.cols + c;
  float old[kElems];
  load_floats<kElems>(to, old);
  add_floats(old, sum);
  store_floats<kElems>(to, old);
}

// A thread a position and vector of columns; gridDim.x * blockDim.y positions.
template <typename T, int kElems>
__global__ __launch_bounds__(256) void position_kernel(const T* dx, std::int64_t rows, std::int64_t length,
                                                       std::int64_t positions, int cols, float* gradient) {
  const std::int64_t p = static_cast<std::int64_t>(blockIdx.x) * 8 + threadIdx.x / 32;
  const int c = static_cast<int>(blockIdx.y * 32 + threadIdx.x % 32) * kElems;
  if (p >= positions || c >= cols) return;
  float sum[kElems] = {};
  if (p < length) {
#pragma unroll 8
    for (std::int64_t i = p; i < rows; i += length) {
      float v[kElems];
      load_floats<kElems>(dx + i * cols + c, v);
      add_floats(sum, v);
    }
  }
  store_floats<kElems>(gradient + p * cols + c, sum);
}

template <typename T, int kElems>
void add_tokens(const Exec& exec, const T* dx, std::span<const std::int64_t> tokens, Matrix<float> gradient) {
  const auto n = static_cast<int>(tokens.size());
  const auto cols = static_cast<int>(gradient.cols);
  const cudaStream_t stream = cuda_stream(exec);
  const DeviceScratch<unsigned> keys(exec, 2 * static_cast<std::int64_t>(n));
  const DeviceScratch<int> indices(exec, 2 * static_cast<std::int64_t>(n));
  pairs_kernel<<<static_cast<unsigned>((n + 255) / 256), 256, 0, stream>>>(tokens.data(), n, keys.get(), indices.get());
  QAT_CUDA_CHECK(cudaGetLastError());
  const int bits = std::max(1, static_cast<int>(std::bit_width(static_cast<std::uint64_t>(gradient.rows - 1))));
  std::size_t bytes = 0;
  const auto sort = [&](void* scratch) {
    return cub::DeviceRadixSort::SortPairs(scratch, bytes, keys.get(), keys.get() + n, indices.get(), indices.get() + n,
                                           n, 0, bits, stream);
  };
  QAT_CUDA_CHECK(sort(nullptr));
  const DeviceScratch<unsigned char> scratch(exec, static_cast<std::int64_t>(std::max<std::size_t>(bytes, 1)));
  QAT_CUDA_CHECK(sort(scratch.get()));

  const int windows = (n + kWindow - 1) / kWindow;
  const DeviceScratch<float> partial(exec, static_cast<std::int64_t>(windows) * 2 * cols);
  const int lanes = (cols + kElems - 1) / kElems;
  const int threads = std::min(256, (lanes + 31) / 32 * 32);
  const dim3 grid(static_cast<unsigned>(windows), static_cast<unsigned>((lanes + threads - 1) / threads));
  window_kernel<T, kElems><<<grid, threads, 0, stream>>>(
      TokenArgs<T>{dx, keys.get() + n, indices.get() + n, gradient.data, partial.get(), n, cols});
  QAT_CUDA_CHECK(cudaGetLastError());
  long_run_kernel<kElems><<<grid, threads, 0, stream>>>(
      TokenArgs<float>{nullptr, keys.get() + n, nullptr, gradient.data, partial.get(), n, cols});
  QAT_CUDA_CHECK(cudaGetLastError());
}

template <typename T, int kElems>
void backward(const Exec& exec, ConstFloatMatrix dx, std::span<const std::int64_t> tokens, std::int64_t length,
              Matrix<float> token_gradient, Matrix<float> position_gradient) {
  const auto* from = static_cast<const T*>(dx.data);
  if (!token_gradient.empty() && dx.rows > 0) add_tokens<T, kElems>(exec, from, tokens, token_gradient);
  if (position_gradient.empty()) return;
  const dim3 grid(static_cast<unsigned>((position_gradient.rows + 7) / 8),
                  static_cast<unsigned>((dx.cols + 32 * kElems - 1) / (32 * kElems)));
  position_kernel<T, kElems><<<grid, 256, 0, cuda_stream(exec)>>>(from, dx.rows, length, position_gradient.rows,
                                                                  static_cast<int>(dx.cols), position_gradient.data);
  QAT_CUDA_CHECK(cudaGetLastError());
}

template <typename T, int kElems>
void forward(const Exec& exec, std::span<const std::int64_t> tokens, std::int64_t length,
             Matrix<const float> token_table, Matrix<const float> position_table, FloatMatrix x) {
  embed_kernel<T, kElems><<<static_cast<unsigned>((x.rows + 7) / 8), 256, 0, cuda_stream(exec)>>>(
      tokens.data(), length, token_table.data, position_table.data, static_cast<T*>(x.data), x.rows,
      static_cast<int>(x.cols));
  QAT_CUDA_CHECK(cudaGetLastError());
}

bool fits_vectors(const void* data, std::int64_t cols) {
  return cols % 8 == 0 && reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
}

}  // namespace

void embed_cuda(const Exec& exec, std::span<const std::int64_t> tokens, std::int64_t length,
                Matrix<const float> token_table, Matrix<const float> position_table, FloatMatrix x) {
  if (x.size() == 0) return;
  const bool vectors = fits_vectors(token_table.data, x.cols) && fits_vectors(position_table.data, x.cols) &&
                       fits_vectors(x.data, x.cols);
  const auto run = x.dtype == DType::kBFloat16 ? (vectors ? forward<__nv_bfloat16, 8> : forward<__nv_bfloat16, 1>)
                                               : (vectors ? forward<float, 8> : forward<float, 1>);
  run(exec, tokens, length, token_table, position_table, x);
}

void embed_backward_cuda(const Exec& exec, ConstFloatMatrix dx, std::span<const std::int64_t> tokens,
                         std::int64_t length, Matrix<float> token_gradient, Matrix<float> position_gradient) {
  if (dx.cols == 0) return;
  const bool vectors = fits_vectors(dx.data, dx.cols) && fits_vectors(token_gradient.data, dx.cols) &&
                       fits_vectors(position_gradient.data, dx.cols);
  const auto run = dx.dtype == DType::kBFloat16 ? (vectors ? backward<__nv_bfloat16, 8> : backward<__nv_bfloat16, 1>)
                                                : (vectors ? backward<float, 8> : backward<float, 1>);
  run(exec, dx, tokens, length, token_gradient, position_gradient);
}

}  // namespace qat::kernels
