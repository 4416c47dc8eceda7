// A CTA a row. First the student's row is read for its two log-sums (at temperature 1 and T), and once more beside each
// teacher's, for that one's log-sum and its divergence; then all of them for the gradient. What is read twice is still
// in the second-level cache: a row of GPT-2's vocabulary in bf16 is 100 KB.
//
// With e_v = exp(t_v / T - largest):  KL = sum_v e_v (t_v - z_v) / T / sum_v e_v - logsum(t / T) + logsum(z / T), so
// that one pass is enough, and the same logits give exactly zero.
#include "kernels/common/cuda_check.h"
#include "kernels/loss/distillation_cuda.h"
#include "kernels/loss/softmax_rows.cuh"

namespace qat::kernels {
namespace {

constexpr int kThreads = 512;

template <typename T>
struct DistillArgs {
  T* logits;
  const T* teachers[kMostTeachers];
  std::int64_t teacher_cols[kMostTeachers];
  int count;
  const std::int64_t* targets;
  float* cross_entropy;
  float* distillation;
  std::int64_t cols;
  std::int64_t classes;
  DistillationWeights weights;
  float gradient_scale;
  bool with_gradient;
};

// kElems of a row from element c on: 16 bytes, or one element where rows are not aligned. Beyond `classes`: -infinity.
template <typename T, int kElems>
__device__ __forceinline__ void load(const T* row, std::int64_t c, std::int64_t classes, float (&v)[kElems]) {
  if constexpr (kElems == 1) {
    v[0] = to_float(row[c]);
  } else {
    Chunk<T> chunk{*reinterpret_cast<const uint4*>(row + c)};
    chunk.unpack(v);
    if (c + kElems <= classes) return;
#pragma unroll
    for (int e = 0; e < kElems; ++e) v[e] = c + e < classes ? v[e] : -INFINITY;
  }
}

template <typename T, int kElems>
__device__ __forceinline__ void store(T* row, std::int64_t c, const float (&v)[kElems]) {
  if constexpr (kElems == 1) {
    row[c] = from_float<T>(v[0]);
  } else {
    Chunk<T> chunk;
    chunk.pack(v);
    *reinterpret_cast<uint4*>(row + c) = chunk.bits;
  }
}

// A teacher's log-sum so far, and with the same factor the sum of what its words have more than the student's.
struct Divergence {
  Running running;
  float excess = 0.0F;

  template <int kElems>
  __device__ __forceinline__ void add(const float (&t)[kElems], const float (&z)[kElems]) {
    const float before = running.largest;
    running.add(t);
    if (running.largest > before) excess *= exp_fast(before - running.largest);
#pragma unroll
    for (int e = 0; e < kElems; ++e) {
      const float p = exp_fast(t[e] - running.largest);
      excess += p > 0.0F ? p * (t[e] - z[e]) : 0.0F;
    }
  }
  __device__ __forceinline__ void join(float other_largest, float other_sum, float other_excess) {
    const float both = fmaxf(running.largest, other_largest);
    excess = excess * exp_fast(running.largest - both) + other_excess * exp_fast(other_largest - both);
    running.join(other_largest, other_sum);
  }
};

// The CTA's total, the same bits in every thread.
__device__ Divergence join_cta(Divergence mine) {
  __shared__ float largest[32], sums[32], excess[32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other_largest = __shfl_xor_sync(~0U, mine.running.largest, offset);
    const float other_sum = __shfl_xor_sync(~0U, mine.running.sum, offset);
    const float other_excess = __shfl_xor_sync(~0U, mine.excess, offset);
    mine.join(other_largest, other_sum, other_excess);
  }
  __syncthreads();  // the last total has been read
  if (threadIdx.x % 32 == 0) {
    largest[threadIdx.x / 32] = mine.running.largest;
    sums[threadIdx.x / 32] = mine.running.sum;
    excess[threadIdx.x / 32] = mine.excess;
  }
  __syncthreads();
  mine = Divergence{};
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) mine.join(largest[warp], sums[warp], excess[warp]);
  return mine;
}

template <int kElems>
__device__ __forceinline__ void scale(float (&v)[kElems], float factor) {
#pragma unroll
  for (int e = 0; e < kElems; ++e) v[e] *= factor;
}

template <typename T, int kElems>
__global__ __launch_bounds__(kThreads, 2) void distillation_kernel(DistillArgs<T> args) {
  __shared__ float teacher_logs[kMostTeachers];
  T* row = args.logits + blockIdx.x * args.cols;
  const std::int64_t first = static_cast<std::int64_t>(threadIdx.x) * kElems, stride = std::int64_t{kThreads} * kElems;
  const std::int64_t target = args.targets[blockIdx.x];
  if (target == kIgnoredTarget) {
    if (threadIdx.x == 0) args.cross_entropy[blockIdx.x] = args.distillation[blockIdx.x] = 0.0F;
    if (args.with_gradient)
      for (std::int64_t c = threadIdx.x; c < args.cols; c += blockDim.x) row[c] = from_float<T>(0.0F);
    return;
  }
  const float inverse = 1.0F / args.weights.temperature;
  Running plain, soft;
  for (std::int64_t c = first; c < args.classes; c += stride) {
    float z[kElems];
    load(row, c, args.classes, z);
    plain.add(z);
    scale(z, inverse);
    soft.add(z);
  }
  // At temperature 1 the sums are those of the divergence below, bit for bit: the same loop, the same order.
  plain = join_cta(plain);
  __syncthreads();
  soft = join_cta(soft);
  const float log_plain = logf(plain.sum) + plain.largest, log_soft = logf(soft.sum) + soft.largest;

  float divergence = 0.0F;
  for (int k = 0; k < args.count; ++k) {
    const T* teacher = args.teachers[k] + blockIdx.x * args.teacher_cols[k];
    Divergence one;
    for (std::int64_t c = first; c < args.classes; c += stride) {
      float z[kElems], t[kElems];
      load(row, c, args.classes, z);
      load(teacher, c, args.classes, t);
      scale(z, inverse);
      scale(t, inverse);
      one.add(t, z);
    }
    one = join_cta(one);
    const float log_teacher = logf(one.running.sum) + one.running.largest;
    divergence += one.excess / one.running.sum - (log_teacher - log_soft);
    if (threadIdx.x == 0) teacher_logs[k] = log_teacher;
  }
  if (threadIdx.x == 0) {
    const bool known = target >= 0 && target < args.classes;
    args.cross_entropy[blockIdx.x] = known ? log_plain - to_float(row[target]) : __uint_as_float(0x7FFFFFFFU);
    args.distillation[blockIdx.x] = args.weights.temperature * args.weights.temperature * divergence;
  }
  if (!args.with_gradient) return;
  __syncthreads();  // the target's logit has been read, and the teachers' log-sums are there

  const float of_target = args.weights.cross_entropy * args.gradient_scale;
  const float of_teachers = args.weights.distillation * args.weights.temperature * args.gradient_scale;
  const auto count = static_cast<float>(args.count);
  for (std::int64_t c = first; c < args.cols; c += stride) {
    float z[kElems] = {};
    if (c < args.classes) {
      float sum[kElems];
      load(row, c, args.classes, z);
#pragma unroll
      for (int e = 0; e < kElems; ++e) sum[e] = count * exp_fast(z[e] * inverse - log_soft);
      for (int k = 0; k < args.count; ++k) {
        float t[kElems];
        load(args.teachers[k] + blockIdx.x * args.teacher_cols[k], c, args.classes, t);
#pragma unroll
        for (int e = 0; e < kElems; ++e) sum[e] -= exp_fast(t[e] * inverse - teacher_logs[k]);
      }
#pragma unroll
      for (int e = 0; e < kElems; ++e) {
        const float p = exp_fast(z[e] - log_plain) - (c + e == target ? 1.0F : 0.0F);
        z[e] = c + e < args.classes ? of_target * p + of_teachers * sum[e] : 0.0F;
      }
    }
    store(row, c, z);
  }
}

template <typename T>
bool is_aligned(const void* data, std::int64_t cols) {
  return cols * static_cast<std::int64_t>(sizeof(T)) % 16 == 0 && reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
}

template <typename T>
void run(const Exec& exec, const DistillArgs<T>& args, std::int64_t rows) {
  bool aligned = is_aligned<T>(args.logits, args.cols);
  for (int k = 0; k < args.count; ++k) aligned = aligned && is_aligned<T>(args.teachers[k], args.teacher_cols[k]);
  const auto ctas = static_cast<unsigned>(rows);
  if (aligned)
    distillation_kernel<T, Chunk<T>::kElems><<<ctas, kThreads, 0, cuda_stream(exec)>>>(args);
  else
    distillation_kernel<T, 1><<<ctas, kThreads, 0, cuda_stream(exec)>>>(args);
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void distillation_cuda(const Exec& exec, FloatMatrix logits, std::span<const ConstFloatMatrix> teachers,
                       std::int64_t classes, std::span<const std::int64_t> targets, const DistillationWeights& weights,
                       bool with_gradient, float gradient_scale, std::span<float> cross_entropy,
                       std::span<float> distillation) {
  if (logits.rows == 0) return;
  const auto run_as = [&]<typename T>(T* data) {
    DistillArgs<T> args{.logits = data,
                        .teachers = {},
                        .teacher_cols = {},
                        .count = static_cast<int>(teachers.size()),
                        .targets = targets.data(),
                        .cross_entropy = cross_entropy.data(),
                        .distillation = distillation.data(),
                        .cols = logits.cols,
                        .classes = classes,
                        .weights = weights,
                        .gradient_scale = gradient_scale,
                        .with_gradient = with_gradient};
    for (std::size_t k = 0; k < teachers.size(); ++k) {
      args.teachers[k] = static_cast<const T*>(teachers[k].data);
      args.teacher_cols[k] = teachers[k].cols;
    }
    run(exec, args, logits.rows);
  };
  if (logits.dtype == DType::kBFloat16)
    run_as(static_cast<__nv_bfloat16*>(logits.data));
  else
    run_as(static_cast<float*>(logits.data));
}

}  // namespace qat::kernels
