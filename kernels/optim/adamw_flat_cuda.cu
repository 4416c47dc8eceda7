#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/common/cuda_check.h"
#include "kernels/common/device_scratch.h"
#include "kernels/common/error.h"
#include "kernels/optim/adamw_flat_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr std::int64_t kQuad = 4;           // elements of one 16-byte access
constexpr std::int64_t kChunkQuads = 1024;  // quads of one block of the kernel for segments

// Where the four arrays begin, moved down to a multiple of 16 bytes: element i of the caller is element i + shift here.
struct Arrays {
  float* p;
  const float* g;
  float* m;
  float* v;
  std::int32_t* refused;
};

// adamw_flat.h, every operation rounded to fp32: the intrinsics are never contracted to fused multiply-adds. False: the
// three values are the old ones, for the new ones are not all finite.
__device__ __forceinline__ bool update(float& p, float g, float& m, float& v, const AdamWConstants& c) {
  const float gradient = __fmul_rn(g, c.gradient_scale);
  const float m_new = __fadd_rn(__fmul_rn(c.beta1, m), __fmul_rn(c.one_minus_beta1, gradient));
  const float v_new = __fadd_rn(__fmul_rn(c.beta2, v), __fmul_rn(c.one_minus_beta2, __fmul_rn(gradient, gradient)));
  const float root = __fadd_rn(__fsqrt_rn(__fmul_rn(v_new, c.unbias2)), c.eps);
  const float direction = __fdiv_rn(__fmul_rn(m_new, c.unbias1), root);
  const float p_new = __fsub_rn(p, __fmul_rn(c.learning_rate, __fadd_rn(direction, __fmul_rn(c.weight_decay, p))));
  const bool good = is_good(p_new, v_new);
  p = good ? p_new : p;
  m = good ? m_new : m;
  v = good ? v_new : v;
  return good;
}

// The flag is written by the few threads that have a reason, if any.
__device__ __forceinline__ void report(const Arrays& a, bool good) {
  if (!good && a.refused != nullptr) atomicExch(a.refused, 1);
}

struct Quad {
  float4 p, g, m, v;
};

// Every byte is used once a step: streaming accesses, which leave the L2 cache to others.
__device__ __forceinline__ Quad load_quad(const Arrays& a, std::int64_t quad) {
  return {__ldcs(reinterpret_cast<const float4*>(a.p) + quad), __ldcs(reinterpret_cast<const float4*>(a.g) + quad),
          __ldcs(reinterpret_cast<const float4*>(a.m) + quad), __ldcs(reinterpret_cast<const float4*>(a.v) + quad)};
}

__device__ __forceinline__ void update_quad(const Arrays& a, std::int64_t quad, Quad x, const AdamWConstants& c) {
  bool good = update(x.p.x, x.g.x, x.m.x, x.v.x, c);
  good &= update(x.p.y, x.g.y, x.m.y, x.v.y, c);
  good &= update(x.p.z, x.g.z, x.m.z, x.v.z, c);
  good &= update(x.p.w, x.g.w, x.m.w, x.v.w, c);
  reinterpret_cast<float4*>(a.p)[quad] = x.p;  // the next forward pass reads these: no streaming store
  __stcs(reinterpret_cast<float4*>(a.m) + quad, x.m);
  __stcs(reinterpret_cast<float4*>(a.v) + quad, x.v);
  report(a, good);
}

// The elements of one quad that lie in [begin, end), one by one.
__device__ __forceinline__ void update_some(const Arrays& a, std::int64_t quad, std::int64_t begin, std::int64_t end,
                                            const AdamWConstants& c) {
  for (std::int64_t i = quad * kQuad; i < quad * kQuad + kQuad; ++i)
    if (i >= begin && i < end) report(a, update(a.p[i], a.g[i], a.m[i], a.v[i], c));
}

__device__ __forceinline__ bool is_inside(std::int64_t quad, std::int64_t begin, std::int64_t end) {
  return quad * kQuad >= begin && quad * kQuad + kQuad <= end;
}

// Elements [begin, end), begin < 4; a quad for each thread. kVector: the arrays begin at multiples of 16 bytes.
template <bool kVector>
__global__ void __launch_bounds__(kThreads)
    adamw_flat_kernel(Arrays a, std::int64_t begin, std::int64_t end, AdamWConstants c) {
  const std::int64_t quad = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (kVector && is_inside(quad, begin, end))
    update_quad(a, quad, load_quad(a, quad), c);
  else
    update_some(a, quad, begin, end, c);
}

struct DeviceSegment {
  std::int64_t begin, end;
  AdamWConstants constants;
};

// The last segment whose first chunk is not above `chunk`; 32 candidates are looked at together, so that a thousand
// segments take two loads. All lanes of the warp call it.
__device__ __forceinline__ int segment_of(const std::int32_t* first_chunk, int segments, std::int32_t chunk) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int low = 0;
  int count = segments;
  while (count > 1) {
    const int step = (count + kWarp - 1) / kWarp;
    const int candidate = lane * step;
    const bool below = candidate < count && first_chunk[low + candidate] <= chunk;
    const int last = __popc(__ballot_sync(0xFFFFFFFFU, below)) - 1;
    low += last * step;
    count = min(step, count - last * step);
  }
  return low;
}

template <bool kVector>
__global__ void __launch_bounds__(kThreads)
    adamw_segments_kernel(Arrays a, const DeviceSegment* __restrict__ table,
                          const std::int32_t* __restrict__ first_chunk, int segments) {
  const int index = segment_of(first_chunk, segments, static_cast<std::int32_t>(blockIdx.x));
  const DeviceSegment& segment = table[index];
  const std::int64_t begin = segment.begin;
  const std::int64_t end = segment.end;
  const std::int64_t chunk = static_cast<std::int64_t>(blockIdx.x) - first_chunk[index];
  const std::int64_t first = begin / kQuad + chunk * kChunkQuads;  // quad
  if (kVector && is_inside(first, begin, end) && is_inside(first + kChunkQuads - 1, begin, end)) {
    constexpr int kPerThread = static_cast<int>(kChunkQuads) / kThreads;
    static_assert(kPerThread % 2 == 0);
    for (int i = 0; i < kPerThread; i += 2) {  // two quads, eight loads, in flight
      const std::int64_t quad = first + i * kThreads + static_cast<std::int64_t>(threadIdx.x);
      const Quad x = load_quad(a, quad);
      const Quad y = load_quad(a, quad + kThreads);
      update_quad(a, quad, x, segment.constants);
      update_quad(a, quad + kThreads, y, segment.constants);
    }
    return;
  }
  for (std::int64_t quad = first + threadIdx.x; quad < first + kChunkQuads && quad * kQuad < end; quad += kThreads) {
    if (kVector && is_inside(quad, begin, end))
      update_quad(a, quad, load_quad(a, quad), segment.constants);
    else
      update_some(a, quad, begin, end, segment.constants);
  }
}

// A warp for each block of `block` elements; lane l keeps sums 4l..4l+3 of the 128. kVector: blocks begin at multiples
// of 16 bytes.
template <bool kVector>
__global__ void __launch_bounds__(kThreads)
    block_sum_squares_kernel(const float* __restrict__ x, std::int64_t n, std::int64_t block,
                             double* __restrict__ partial, std::int64_t blocks) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (index >= blocks) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* const at = x + index * block;
  const std::int64_t count = min(block, n - index * block);
  double sums[4] = {0.0, 0.0, 0.0, 0.0};
  const auto add = [&](int k, float value) {
    const auto wide = static_cast<double>(value);
    sums[k] = __dadd_rn(sums[k], __dmul_rn(wide, wide));
  };
  constexpr std::int64_t kStep = kWarp * kQuad;
  std::int64_t j = lane * kQuad;
  if constexpr (kVector) {
#pragma unroll 8
    for (; j + kQuad <= count; j += kStep) {
      const float4 values = __ldg(reinterpret_cast<const float4*>(at + j));
      add(0, values.x);
      add(1, values.y);
      add(2, values.z);
      add(3, values.w);
    }
  }
  for (; j < count; j += kStep) {
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (j + k < count) add(k, at[j + k]);
  }
  double sum = __dadd_rn(__dadd_rn(sums[0], sums[1]), __dadd_rn(sums[2], sums[3]));
  for (int distance = 1; distance < kWarp; distance *= 2)
    sum = __dadd_rn(sum, __shfl_xor_sync(0xFFFFFFFFU, sum, distance));
  if (lane == 0) partial[index] = sum;
}

// How many elements the four arrays begin after a multiple of 16 bytes; -1 if they differ in that, or if they are not
// even aligned to elements.
std::int64_t common_shift(const AdamWState& state) {
  constexpr std::uintptr_t kBytes = sizeof(float4);
  const auto offset = [](const float* data) { return reinterpret_cast<std::uintptr_t>(data) % kBytes; };
  const std::uintptr_t bytes = offset(state.p.data());
  if (offset(state.g.data()) != bytes || offset(state.m.data()) != bytes || offset(state.v.data()) != bytes) return -1;
  return static_cast<std::int64_t>(bytes / sizeof(float));
}

Arrays arrays_of(const AdamWState& state, std::int64_t shift) {
  return {state.p.data() - shift, state.g.data() - shift, state.m.data() - shift, state.v.data() - shift,
          state.refused};
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

void adamw_flat_cuda(const Exec& exec, const AdamWState& state, const AdamWStep& step) {
  const std::int64_t shift = common_shift(state);
  const std::int64_t begin = shift < 0 ? 0 : shift;
  const std::int64_t end = begin + static_cast<std::int64_t>(state.p.size());
  const auto grid = static_cast<unsigned>(ceil_div(ceil_div(end, kQuad), kThreads));
  const auto kernel = shift < 0 ? adamw_flat_kernel<false> : adamw_flat_kernel<true>;
  kernel<<<grid, kThreads, 0, cuda_stream(exec)>>>(arrays_of(state, begin), begin, end, constants_of(step));
  QAT_CUDA_CHECK(cudaGetLastError());
}

void adamw_segments_cuda(const Exec& exec, const AdamWState& state, std::span<const AdamWSegment> segments) {
  const std::int64_t shift = common_shift(state);
  const std::int64_t moved = shift < 0 ? 0 : shift;
  std::vector<DeviceSegment> table;
  std::vector<std::int32_t> first_chunk;
  std::int64_t chunks = 0;
  for (const AdamWSegment& segment : segments) {
    if (segment.elems == 0) continue;
    const std::int64_t begin = segment.offset + moved;
    const std::int64_t end = begin + segment.elems;
    table.push_back({begin, end, constants_of(segment.step)});
    first_chunk.push_back(static_cast<std::int32_t>(chunks));
    chunks += ceil_div(ceil_div(end, kQuad) - begin / kQuad, kChunkQuads);
    QAT_CHECK(chunks <= INT32_MAX, "more AdamW chunks than a grid has blocks");
  }
  if (chunks == 0) return;
  // One upload for both tables. From pageable memory the call returns when the driver has taken its own copy, and it
  // does not wait for the device: the vectors may die right after it.
  const std::size_t table_bytes = table.size() * sizeof(DeviceSegment);
  const std::size_t bytes = table_bytes + first_chunk.size() * sizeof(std::int32_t);
  std::vector<std::byte> packed(bytes);
  std::memcpy(packed.data(), table.data(), table_bytes);
  std::memcpy(packed.data() + table_bytes, first_chunk.data(), bytes - table_bytes);
  const DeviceScratch<std::byte> uploaded(exec, static_cast<std::int64_t>(bytes));
  const cudaStream_t stream = cuda_stream(exec);
  QAT_CUDA_CHECK(cudaMemcpyAsync(uploaded.get(), packed.data(), bytes, cudaMemcpyHostToDevice, stream));
  const auto kernel = shift < 0 ? adamw_segments_kernel<false> : adamw_segments_kernel<true>;
  kernel<<<static_cast<unsigned>(chunks), kThreads, 0, stream>>>(
      arrays_of(state, moved), reinterpret_cast<const DeviceSegment*>(uploaded.get()),
      reinterpret_cast<const std::int32_t*>(uploaded.get() + table_bytes), static_cast<int>(table.size()));
  QAT_CUDA_CHECK(cudaGetLastError());
}

void block_sum_squares_cuda(const Exec& exec, std::span<const float> x, std::int64_t block, std::span<double> partial) {
  const auto n = static_cast<std::int64_t>(x.size());
  const auto blocks = static_cast<std::int64_t>(partial.size());
  const bool vector = block % kQuad == 0 && reinterpret_cast<std::uintptr_t>(x.data()) % sizeof(float4) == 0;
  const auto kernel = vector ? block_sum_squares_kernel<true> : block_sum_squares_kernel<false>;
  kernel<<<static_cast<unsigned>(ceil_div(blocks, kThreads / kWarp)), kThreads, 0, cuda_stream(exec)>>>(
      x.data(), n, block, partial.data(), blocks);
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace qat::kernels
