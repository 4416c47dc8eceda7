#include <algorithm>

#include "kernels/common/codes.cuh"
#include "kernels/common/cuda_check.h"
#include "kernels/common/float_vectors.cuh"
#include "kernels/quant/code_passes_cuda.h"
#include "kernels/quant/fake_quant_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kTargetBlocks = 132 * 16;

struct Steps {  // from one element's group to the next row's and the next column's
  std::int64_t row, col;
};
Steps steps_of(Axis axis) { return {axis == Axis::kRow ? 1 : 0, axis == Axis::kCol ? 1 : 0}; }

// Half to even by adding 1.5 * 2^23; a small negative number gives +0, as on the CPU.
__device__ float nearest(float v) { return (v + kIntegerShift) - kIntegerShift; }
// floor(v + u), exactly: see row_coder.cc.
__device__ float stochastic(float v, float u) {
  const float near = nearest(v), rest = v - near;
  return near + ((rest >= 1.0F - u ? 1.0F : 0.0F) - (rest < -u ? 1.0F : 0.0F));
}

struct UniformArgs {
  const float* x;
  float* y;
  std::int64_t rows, cols;
  Steps steps;
  const float* scales;
  const float* zero_points;  // null: zero
  float level_lo, level_hi;
  RoundingKeys keys;
};

struct Level {
  float scale, inverse, lo, hi;
};
__device__ Level level_of(const UniformArgs& a, std::int64_t r, std::int64_t c) {
  const std::int64_t g = r * a.steps.row + c * a.steps.col;
  const float zero = a.zero_points != nullptr ? a.zero_points[g] : 0.0F;
  return {a.scales[g], __frcp_rn(a.scales[g]), a.level_lo - zero, a.level_hi - zero};
}

template <bool kStochastic>
__device__ float snap(float x, const Level& level, float u) {
  float v = x * level.inverse;  // the clamp keeps a NaN
  v = level.hi < v ? level.hi : v;
  v = level.lo > v ? level.lo : v;
  return level.scale * (kStochastic ? stochastic(v, u) : nearest(v));
}

// Threads own columns, kVec of them (8, on 16-byte boundaries, or 1), and go down rows.
template <int kVec, bool kStochastic>
__global__ void __launch_bounds__(kThreads) uniform_kernel(const UniformArgs a) {
  const std::int64_t c = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
  if (c >= a.cols) return;
  Level levels[kVec];  // per column; one row at a time where the group is a row
#pragma unroll
  for (int j = 0; j < kVec; ++j) levels[j] = level_of(a, 0, c + j);
  for (std::int64_t r = blockIdx.y; r < a.rows; r += gridDim.y) {
    if (a.steps.row != 0) {
      const Level level = level_of(a, r, 0);
#pragma unroll
      for (int j = 0; j < kVec; ++j) levels[j] = level;
    }
    const std::int64_t at = r * a.cols + c;
    if constexpr (kVec == kGroup) {
      const Raw8<float> raw = load8(a.x + at);
      Draws8 draws{};
      if constexpr (kStochastic) draws = draws_of(a.keys, static_cast<std::uint64_t>(at) / kGroup);
      float y[kGroup];
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        const float u = rounding_uniform(draws.words[j / 4] >> (8 * (j % 4)) & 0xFFU);
        y[j] = snap<kStochastic>(element(raw, j), levels[j], u);
      }
      store8(a.y + at, pack8<float>(y));
    } else {
      float u = 0.0F;
      if constexpr (kStochastic) u = rounding_uniform(rounding_byte_at(a.keys, static_cast<std::uint64_t>(at)));
      a.y[at] = snap<kStochastic>(a.x[at], levels[0], u);
    }
  }
}

template <int kVec>
void launch(const UniformArgs& a, bool is_stochastic, cudaStream_t stream) {
  const std::int64_t across = (a.cols + kThreads * kVec - 1) / (kThreads * kVec);
  const std::int64_t down = std::min<std::int64_t>({a.rows, (kTargetBlocks + across - 1) / across, 65535});
  const dim3 grid(static_cast<unsigned>(across), static_cast<unsigned>(down));
  if (is_stochastic)
    uniform_kernel<kVec, true><<<grid, kThreads, 0, stream>>>(a);
  else
    uniform_kernel<kVec, false><<<grid, kThreads, 0, stream>>>(a);
  QAT_CUDA_CHECK(cudaGetLastError());
}

struct LogArgs {
  const float* x;
  float* y;
  std::int64_t rows, cols;
  Steps steps;
  const float* log_mins;
  const float* log_ranges;
  float n;  // q_max
  bool packed;
};

// snap_log of fake_quant_cpu.cc, comparison by comparison.
__device__ float snap_log(float x, float log_min, float log_range, float n, bool packed) {
  constexpr float kMinSpan = 1e-5F;
  const float magnitude = fabsf(x), span = log_range < kMinSpan ? kMinSpan : log_range;
  if (packed ? magnitude <= kLogEps : magnitude < kLogEps) return 0.0F;
  float t = (log2f(magnitude) - log_min) / span;
  t = t < 0.0F ? 0.0F : t;
  t = t > 1.0F ? 1.0F : t;
  float u = 0.0F;
  if (!packed) {
    u = rintf((t - 0.5F) * (2.0F * n)) / (2.0F * n) + 0.5F;
  } else if (n > 1.0F) {
    u = rintf(t * (n - 1.0F)) / (n - 1.0F);
  } else {
    u = t == t ? 0.0F : t;
  }
  return copysignf(exp2f(u * log_range + log_min), x);
}

__global__ void __launch_bounds__(kThreads) log_kernel(const LogArgs a) {
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= a.cols) return;
  for (std::int64_t r = blockIdx.y; r < a.rows; r += gridDim.y) {
    const std::int64_t g = r * a.steps.row + c * a.steps.col;
    a.y[r * a.cols + c] = snap_log(a.x[r * a.cols + c], a.log_mins[g], a.log_ranges[g], a.n, a.packed);
  }
}

__global__ void __launch_bounds__(kThreads)
    symmetric_scales_kernel(const float* lo, const float* hi, float q_max, float floor, float* scales, std::int64_t n) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const float from = lo[i], to = hi[i];
  const bool known = from == from && to == to;
  scales[i] = known ? __fdiv_rn(fmaxf(fmaxf(fabsf(from), fabsf(to)), floor), q_max) : quiet_nan();
}

__global__ void __launch_bounds__(kThreads)
    affine_scales_kernel(const float* lo, const float* hi, float level_max, float floor, float* scales,
                         float* zero_points, std::int64_t n) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const bool known = lo[i] == lo[i] && hi[i] == hi[i];
  const float from = fminf(lo[i], 0.0F), to = fmaxf(hi[i], 0.0F);
  const float scale = __fdiv_rn(fmaxf(to - from, floor), level_max);
  scales[i] = known ? scale : quiet_nan();
  zero_points[i] = known ? rintf(__fdiv_rn(0.0F - from, scale)) : quiet_nan();
}

unsigned blocks_for(std::int64_t n) { return static_cast<unsigned>((n + kThreads - 1) / kThreads); }

}  // namespace

void fake_quant_uniform_cuda(const Exec& exec, Matrix<const float> x, Axis axis, const UniformGrid& grid,
                             Matrix<float> y) {
  if (x.size() == 0) return;
  const UniformArgs a{.x = x.data,
                      .y = y.data,
                      .rows = x.rows,
                      .cols = x.cols,
                      .steps = steps_of(axis),
                      .scales = grid.scales.data(),
                      .zero_points = grid.zero_points.empty() ? nullptr : grid.zero_points.data(),
                      .level_lo = grid.level_lo,
                      .level_hi = grid.level_hi,
                      .keys = rounding_keys(grid.key)};
  if (has_vector_rows(one_part(x)) && is_aligned(y.data, 16))
    launch<kGroup>(a, grid.stochastic, cuda_stream(exec));
  else
    launch<1>(a, grid.stochastic, cuda_stream(exec));
}

void fake_quant_log_cuda(const Exec& exec, Matrix<const float> x, Axis axis, const LogGrid& grid, Matrix<float> y) {
  if (x.size() == 0) return;
  const LogArgs a{.x = x.data,
                  .y = y.data,
                  .rows = x.rows,
                  .cols = x.cols,
                  .steps = steps_of(axis),
                  .log_mins = grid.log_mins.data(),
                  .log_ranges = grid.log_ranges.data(),
                  .n = static_cast<float>(grid.width.q_max()),
                  .packed = grid.codebook == LogCodebook::kPacked};
  const std::int64_t across = (x.cols + kThreads - 1) / kThreads;
  const std::int64_t down = std::min<std::int64_t>({x.rows, (kTargetBlocks + across - 1) / across, 65535});
  log_kernel<<<dim3(static_cast<unsigned>(across), static_cast<unsigned>(down)), kThreads, 0, cuda_stream(exec)>>>(a);
  QAT_CUDA_CHECK(cudaGetLastError());
}

void symmetric_scales_cuda(const Exec& exec, std::span<const float> lo, std::span<const float> hi, BitWidth width,
                           float floor, std::span<float> scales) {
  if (scales.empty()) return;
  const auto n = static_cast<std::int64_t>(scales.size());
  symmetric_scales_kernel<<<blocks_for(n), kThreads, 0, cuda_stream(exec)>>>(
      lo.data(), hi.data(), static_cast<float>(width.q_max()), floor, scales.data(), n);
  QAT_CUDA_CHECK(cudaGetLastError());
}

void affine_scales_cuda(const Exec& exec, std::span<const float> lo, std::span<const float> hi, BitWidth width,
                        std::span<float> scales, std::span<float> zero_points) {
  if (scales.empty()) return;
  const auto n = static_cast<std::int64_t>(scales.size());
  affine_scales_kernel<<<blocks_for(n), kThreads, 0, cuda_stream(exec)>>>(
      lo.data(), hi.data(), static_cast<float>(width.level_max()), kWeightAmaxFloor, scales.data(), zero_points.data(),
      n);
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace qat::kernels
