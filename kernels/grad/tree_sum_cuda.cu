#include <cstdint>

#include "kernels/common/cuda_check.h"
#include "kernels/common/device_scratch.h"
#include "kernels/grad/parts_tree.cuh"
#include "kernels/grad/tree_sum_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kPassParts = kMostTreeParts;

// Each byte is read once: it should not push other data out of the L2 cache. Not the read-only path, for the sum may
// replace the first part.
template <typename V>
__device__ __forceinline__ V load(const V* x) {
  return __ldcs(x);
}

// n and stride count Vs. kMost / 2 < parts <= kMost.
template <int kMost, typename V>
__global__ void __launch_bounds__(kThreads)
    tree_sum_kernel(const V* x, std::int64_t stride, int parts, V* sum, std::int64_t n) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  sum[i] = parts_tree<kMost>([&](int part) { return load(x + i + part * stride); }, parts);
}

template <typename V>
__global__ void __launch_bounds__(kThreads) add_kernel(V* a, const V* b, std::int64_t n) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) a[i] = tree_plus(a[i], load(b + i));
}

unsigned grid_for(std::int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

template <typename V>
void launch(const V* x, std::int64_t stride, int parts, V* sum, std::int64_t n, cudaStream_t stream) {
  with_tree_of(parts, [&](auto most) {
    tree_sum_kernel<most()><<<grid_for(n), kThreads, 0, stream>>>(x, stride, parts, sum, n);
  });
  QAT_CUDA_CHECK(cudaGetLastError());
}

bool is_aligned(const void* data) { return reinterpret_cast<std::uintptr_t>(data) % sizeof(float4) == 0; }

// 1 <= parts <= kPassParts.
void sum_once(const float* x, std::int64_t parts, float* sum, std::int64_t n, cudaStream_t stream) {
  if (parts == 1) {
    if (sum == x) return;
    QAT_CUDA_CHECK(
        cudaMemcpyAsync(sum, x, static_cast<std::size_t>(n) * sizeof(float), cudaMemcpyDeviceToDevice, stream));
    return;
  }
  if (n % 4 == 0 && is_aligned(x) && is_aligned(sum))
    launch(reinterpret_cast<const float4*>(x), n / 4, static_cast<int>(parts), reinterpret_cast<float4*>(sum), n / 4,
           stream);
  else
    launch(x, n, static_cast<int>(parts), sum, n, stream);
}

}  // namespace

void tree_sum_cuda(const Exec& exec, std::span<const float> x, std::int64_t parts, std::span<float> sum) {
  const auto n = static_cast<std::int64_t>(sum.size());
  const cudaStream_t stream = cuda_stream(exec);
  if (parts <= kPassParts) return sum_once(x.data(), parts, sum.data(), n, stream);
  // Groups of 64 neighbours are whole subtrees (but for the last), so their sums are the leaves of the rest of the
  // tree.
  const std::int64_t groups = (parts + kPassParts - 1) / kPassParts;
  const DeviceScratch<float> partial(exec, groups * n);
  for (std::int64_t group = 0; group < groups; ++group) {
    const std::int64_t first = group * kPassParts;
    const std::int64_t members = first + kPassParts <= parts ? kPassParts : parts - first;
    sum_once(x.data() + first * n, members, partial.get() + group * n, n, stream);
  }
  tree_sum_cuda(exec, {partial.get(), static_cast<std::size_t>(groups * n)}, groups, sum);
}

void add_flat_cuda(const Exec& exec, std::span<float> a, std::span<const float> b) {
  const auto n = static_cast<std::int64_t>(a.size());
  const cudaStream_t stream = cuda_stream(exec);
  const std::int64_t quads = is_aligned(a.data()) && is_aligned(b.data()) ? n / 4 : 0;
  if (quads > 0) {
    add_kernel<<<grid_for(quads), kThreads, 0, stream>>>(reinterpret_cast<float4*>(a.data()),
                                                         reinterpret_cast<const float4*>(b.data()), quads);
    QAT_CUDA_CHECK(cudaGetLastError());
  }
  if (const std::int64_t rest = n - 4 * quads; rest > 0) {
    add_kernel<<<grid_for(rest), kThreads, 0, stream>>>(a.data() + 4 * quads, b.data() + 4 * quads, rest);
    QAT_CUDA_CHECK(cudaGetLastError());
  }
}

}  // namespace qat::kernels
