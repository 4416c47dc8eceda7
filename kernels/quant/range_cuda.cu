#include <algorithm>
#include <bit>
#include <limits>

#include "kernels/common/codes.cuh"
#include "kernels/common/device_scratch.h"
#include "kernels/common/float_vectors.cuh"
#include "kernels/quant/code_passes_cuda.h"
#include "kernels/quant/range_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kLanes = 32;
constexpr int kRowThreads = 8;
constexpr int kThreads = kLanes * kRowThreads;
constexpr int kUnroll = 4;
// A constant, not the device's number of multiprocessors: it decides the order of sums.
constexpr std::int64_t kTargetBlocks = 132 * 8;

// Floats as integers of the same order; see range_cpu.cc.
constexpr std::int32_t kSignless = 0x7FFFFFFF;
constexpr std::int32_t kInfinityKey = 0x7F800000;
constexpr std::int32_t kNegativeInfinityKey = -kInfinityKey - 1;
constexpr std::int32_t kLowest = std::numeric_limits<std::int32_t>::min();
constexpr std::int32_t kHighest = std::numeric_limits<std::int32_t>::max();

__device__ std::int32_t key_of(float x) {
  const std::int32_t bits = __float_as_int(x);
  return bits ^ ((bits >> 31) & kSignless);
}
__device__ float value_of(std::int32_t key) { return __int_as_float(key ^ ((key >> 31) & kSignless)); }
// As the CPU: in double, rounded once.
__device__ float log2_of(float magnitude) { return static_cast<float>(log2(static_cast<double>(magnitude))); }

// ---- what is accumulated

struct KeyRange {
  std::int32_t lo = kHighest, hi = kLowest;
  __device__ void add(const KeyRange& other) {
    lo = min(lo, other.lo);
    hi = max(hi, other.hi);
  }
  __device__ KeyRange from_lane(int lane_xor) const {
    return {__shfl_xor_sync(kWholeWarp, lo, lane_xor), __shfl_xor_sync(kWholeWarp, hi, lane_xor)};
  }
};
struct LogSum {
  double sum = 0.0;
  long long count = 0;
  __device__ void add(const LogSum& other) {
    sum += other.sum;
    count += other.count;
  }
  __device__ LogSum from_lane(int lane_xor) const {
    return {__shfl_xor_sync(kWholeWarp, sum, lane_xor), __shfl_xor_sync(kWholeWarp, count, lane_xor)};
  }
};

struct SignedRange {
  using Total = KeyRange;
  __device__ void add(float x, KeyRange& total) const {
    const std::int32_t key = key_of(x);
    total.add({key, key});
  }
};
struct MagnitudeRange {
  using Total = KeyRange;
  std::int32_t eps_key;
  bool masked;
  __device__ void add(float x, KeyRange& total) const {
    const std::int32_t key = __float_as_int(x) & kSignless;
    if (!masked || key > eps_key) total.add({key, key});
  }
};
struct Logarithms {
  using Total = LogSum;
  float eps;
  __device__ void add(float x, LogSum& total) const {
    const float magnitude = fabsf(x);
    if (magnitude <= eps) return;
    total.sum += static_cast<double>(log2f(magnitude));
    ++total.count;
  }
};

// ---- one partial result per group and strip: partials[strip * groups + group]

// Threads (32 columns, 8 rows) over one strip of rows; four loads in flight.
template <typename What>
__global__ void __launch_bounds__(kThreads)
    column_partials_kernel(const float* x, std::int64_t rows, std::int64_t cols, std::int64_t strip_rows, What what,
                           typename What::Total* partials) {
  using Total = typename What::Total;
  __shared__ Total shared[kRowThreads][kLanes];
  const int lane = static_cast<int>(threadIdx.x) % kLanes, y = static_cast<int>(threadIdx.x) / kLanes;
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kLanes + lane;
  const std::int64_t first = blockIdx.y * strip_rows, last = min(first + strip_rows, rows);
  Total total;
  if (c < cols) {
    for (std::int64_t r = first + y; r < last; r += kRowThreads * kUnroll) {
      float values[kUnroll];
#pragma unroll
      for (int i = 0; i < kUnroll; ++i)
        if (r + i * kRowThreads < last) values[i] = x[(r + i * kRowThreads) * cols + c];
#pragma unroll
      for (int i = 0; i < kUnroll; ++i)
        if (r + i * kRowThreads < last) what.add(values[i], total);
    }
  }
  shared[y][lane] = total;
  __syncthreads();
  if (y != 0 || c >= cols) return;
  for (int k = 1; k < kRowThreads; ++k) total.add(shared[k][lane]);
  partials[blockIdx.y * cols + c] = total;
}

// A block over `span` elements of one contiguous group: rows, or strips of the whole tensor.
//   group g = blockIdx.x, strip s = blockIdx.y: elements s * span .. of the `length` elements from g * length on
template <typename What, bool kVector>
__global__ void __launch_bounds__(kThreads) span_partials_kernel(const float* x, std::int64_t length, std::int64_t span,
                                                                 What what, typename What::Total* partials) {
  using Total = typename What::Total;
  __shared__ Total shared[kThreads / 32];
  const std::int64_t begin = blockIdx.y * span, end = min(begin + span, length);
  const float* group = x + static_cast<std::int64_t>(blockIdx.x) * length;
  Total total;
  if constexpr (kVector) {
    for (std::int64_t i = begin + threadIdx.x * kGroup; i < end; i += kThreads * kGroup) {
      const Raw8<float> raw = load8(group + i);
#pragma unroll
      for (int j = 0; j < kGroup; ++j) what.add(element(raw, j), total);
    }
  } else {
    for (std::int64_t i = begin + threadIdx.x; i < end; i += kThreads) what.add(group[i], total);
  }
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) total.add(total.from_lane(lanes));
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = total;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int k = 1; k < kThreads / 32; ++k) total.add(shared[k]);
  partials[static_cast<std::int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = total;
}

// emit(group, total of its strips in order), a warp a group where there are few.
template <typename Total, typename Emit>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const Total* partials, std::int64_t groups, std::int64_t strips, Emit emit) {
  const std::int64_t g = static_cast<std::int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (g >= groups) return;
  Total total;
  for (std::int64_t s = threadIdx.x % 32; s < strips; s += 32) total.add(partials[s * groups + g]);
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) total.add(total.from_lane(lanes));
  if (threadIdx.x % 32 == 0) emit(g, total);
}

template <typename What, typename Emit>
void reduce(const Exec& exec, const Matrix<const float>& x, Axis axis, const What& what, const Emit& emit) {
  using Total = typename What::Total;
  const auto stream = cuda_stream(exec);
  const std::int64_t groups = groups_of(x, axis);
  std::int64_t strips = 1;
  const auto finish = [&](const Total* partials) {
    const auto blocks = static_cast<unsigned>((groups + kThreads / 32 - 1) / (kThreads / 32));
    finish_kernel<Total><<<blocks, kThreads, 0, stream>>>(partials, groups, strips, emit);
    QAT_CUDA_CHECK(cudaGetLastError());
  };
  if (axis == Axis::kCol) {
    const std::int64_t across = (x.cols + kLanes - 1) / kLanes;
    const std::int64_t wanted = (kTargetBlocks + across - 1) / across;
    const std::int64_t strip_rows = std::max<std::int64_t>(kRowThreads * kUnroll, (x.rows + wanted - 1) / wanted);
    strips = (x.rows + strip_rows - 1) / strip_rows;
    const DeviceScratch<Total> partials(exec, strips * groups);
    column_partials_kernel<<<dim3(static_cast<unsigned>(across), static_cast<unsigned>(strips)), kThreads, 0, stream>>>(
        x.data, x.rows, x.cols, strip_rows, what, partials.get());
    QAT_CUDA_CHECK(cudaGetLastError());
    return finish(partials.get());
  }
  const std::int64_t length = axis == Axis::kRow ? x.cols : x.size();
  // Whole groups of eight a strip. Rows are not cut: there are enough of them.
  std::int64_t span = length;
  if (axis == Axis::kTensor) {
    span = std::max<std::int64_t>(kThreads * kGroup, (length + kTargetBlocks - 1) / kTargetBlocks);
    span = (span + kGroup - 1) / kGroup * kGroup;
  }
  strips = (length + span - 1) / span;
  const DeviceScratch<Total> partials(exec, strips * groups);
  const dim3 grid(static_cast<unsigned>(groups), static_cast<unsigned>(strips));
  if (length % kGroup == 0 && is_aligned(x.data, 16))
    span_partials_kernel<What, true><<<grid, kThreads, 0, stream>>>(x.data, length, span, what, partials.get());
  else
    span_partials_kernel<What, false><<<grid, kThreads, 0, stream>>>(x.data, length, span, what, partials.get());
  QAT_CUDA_CHECK(cudaGetLastError());
  finish(partials.get());
}

struct EmitRange {
  float* mins;
  float* maxs;
  __device__ void operator()(std::int64_t g, const KeyRange& range) const {
    const bool finite = range.lo > kNegativeInfinityKey && range.hi < kInfinityKey;
    mins[g] = finite ? value_of(range.lo) + 0.0F : quiet_nan();  // adding +0 turns -0 into +0
    maxs[g] = finite ? value_of(range.hi) + 0.0F : quiet_nan();
  }
};

struct EmitLogRange {
  std::int32_t eps_key;
  float* log_mins;
  float* log_maxs;
  __device__ void operator()(std::int64_t g, const KeyRange& range) const {
    const bool none = range.lo > range.hi;  // nothing above eps
    const bool finite = none || range.hi < kInfinityKey;
    log_mins[g] = finite ? log2_of(value_of(none ? eps_key : max(range.lo, eps_key))) : quiet_nan();
    log_maxs[g] = finite ? log2_of(value_of(none ? eps_key : max(range.hi, eps_key))) : quiet_nan();
  }
};

struct EmitLogMean {
  float eps;
  float* means;
  __device__ void operator()(std::int64_t g, const LogSum& total) const {
    const double mean = total.sum / static_cast<double>(total.count);
    means[g] = total.count == 0 ? log2_of(eps) : isfinite(total.sum) ? static_cast<float>(mean) : quiet_nan();
  }
};

}  // namespace

void min_max_cuda(const Exec& exec, Matrix<const float> x, Axis axis, std::span<float> mins, std::span<float> maxs) {
  if (x.size() == 0) return;
  reduce(exec, x, axis, SignedRange{}, EmitRange{mins.data(), maxs.data()});
}

void log_range_cuda(const Exec& exec, Matrix<const float> x, Axis axis, LogRule rule, std::span<float> log_mins,
                    std::span<float> log_maxs) {
  if (x.size() == 0) return;
  const auto eps_key = std::bit_cast<std::int32_t>(rule.eps);  // positive: its bits are its key
  reduce(exec, x, axis, MagnitudeRange{eps_key, rule.masked}, EmitLogRange{eps_key, log_mins.data(), log_maxs.data()});
}

void log_mean_cuda(const Exec& exec, Matrix<const float> x, Axis axis, float eps, std::span<float> means) {
  if (x.size() == 0) return;
  reduce(exec, x, axis, Logarithms{eps}, EmitLogMean{eps, means.data()});
}

}  // namespace qat::kernels
