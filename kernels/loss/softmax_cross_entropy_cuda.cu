// A CTA a row. While a row is read its running maximum and sum are kept (Milakov & Gimelshein, arXiv:1805.02867) and
// its bytes are kept in shared memory, so that the gradient costs a write and no second read. A thread reads back only
// what it has put there itself.
#include "kernels/common/cuda_check.h"
#include "kernels/loss/softmax_cross_entropy_cuda.h"
#include "kernels/loss/softmax_rows.cuh"

namespace qat::kernels {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kMaxStagedBytes = 224 * 1024;

template <typename T>
struct LossArgs {
  T* logits;
  const std::int64_t* targets;
  float* losses;
  std::int64_t cols;
  std::int64_t classes;
  float gradient_scale;
  bool with_gradient;
};

// A NaN for a target that is no class.
template <typename T>
__device__ float target_logit(const T* row, std::int64_t target, std::int64_t classes) {
  if (target < 0 || target >= classes) return __uint_as_float(0x7FFFFFFFU);
  return to_float(row[target]);
}

// A row without a target, by all threads of its CTA.
template <typename T>
__device__ void ignore_row(const LossArgs<T>& args, T* row) {
  if (threadIdx.x == 0) args.losses[blockIdx.x] = 0.0F;
  if (!args.with_gradient) return;
  for (std::int64_t c = threadIdx.x; c < args.cols; c += blockDim.x) row[c] = from_float<T>(0.0F);
}

template <typename T>
__global__ __launch_bounds__(kMaxThreads, 1) void loss_kernel(LossArgs<T> args) {
  using Vector = Chunk<T>;
  constexpr int kElems = Vector::kElems;
  constexpr int kUnroll = 4;
  extern __shared__ uint4 staged[];  // the row, if its gradient is wanted
  T* row = args.logits + blockIdx.x * args.cols;
  auto* chunks = reinterpret_cast<uint4*>(row);
  const int threads = static_cast<int>(blockDim.x);
  const int first = static_cast<int>(threadIdx.x);
  const int full = static_cast<int>(args.classes / kElems);  // chunks of nothing but classes
  const int all = static_cast<int>(args.cols / kElems);
  const int mixed = static_cast<int>(args.classes % kElems);  // classes in the chunk after them
  const std::int64_t target = args.targets[blockIdx.x];
  if (target == kIgnoredTarget) return ignore_row(args, row);
  const float wanted = target_logit(row, target, args.classes);

  Running running;
  for (int base = first; base < full; base += kUnroll * threads) {
    Vector chunk[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (base + u * threads < full) chunk[u].bits = chunks[base + u * threads];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int i = base + u * threads;
      if (i >= full) continue;
      if (args.with_gradient) staged[i] = chunk[u].bits;
      float v[kElems];
      chunk[u].unpack(v);
      running.add(v);
    }
  }
  const bool has_mixed = mixed != 0 && full % threads == first;
  if (has_mixed) {
    Vector chunk{chunks[full]};
    float v[kElems];
    chunk.unpack(v);
#pragma unroll
    for (int e = 0; e < kElems; ++e) v[e] = e < mixed ? v[e] : -INFINITY;
    running.add(v);
    chunk.pack(v);
    if (args.with_gradient) staged[full] = chunk.bits;
  }
  running = join_cta(running);  // a barrier: every thread has read `wanted` before any thread writes
  if (first == 0) args.losses[blockIdx.x] = logf(running.sum) + (running.largest - wanted);
  if (!args.with_gradient) return;

  const float factor = args.gradient_scale / running.sum;
  const int with_classes = full + (mixed != 0 ? 1 : 0);
#pragma unroll 2
  for (int i = first; i < with_classes; i += threads) {
    Vector chunk{staged[i]};
    float v[kElems];
    chunk.unpack(v);
#pragma unroll
    for (int e = 0; e < kElems; ++e) v[e] = exp_fast(v[e] - running.largest) * factor;  // padding: exp(-inf) = 0
    chunk.pack(v);
    chunks[i] = chunk.bits;
  }
  for (int i = with_classes + first; i < all; i += threads) chunks[i] = make_uint4(0, 0, 0, 0);
  // By the thread that has written the target's chunk: its stores stay in order.
  if (target >= 0 && target < args.classes && static_cast<int>(target / kElems) % threads == first) {
    const float p = exp_fast(wanted - running.largest) / running.sum;
    row[target] = from_float<T>((p - 1.0F) * args.gradient_scale);
  }
}

// Any width and alignment; reads the row twice.
template <typename T>
__global__ __launch_bounds__(256) void loss_any_kernel(LossArgs<T> args) {
  T* row = args.logits + blockIdx.x * args.cols;
  const std::int64_t target = args.targets[blockIdx.x];
  if (target == kIgnoredTarget) return ignore_row(args, row);
  const float wanted = target_logit(row, target, args.classes);
  Running running;
  for (std::int64_t c = threadIdx.x; c < args.classes; c += blockDim.x) {
    const float v[1] = {to_float(row[c])};
    running.add(v);
  }
  running = join_cta(running);
  if (threadIdx.x == 0) args.losses[blockIdx.x] = logf(running.sum) + (running.largest - wanted);
  if (!args.with_gradient) return;
  for (std::int64_t c = threadIdx.x; c < args.cols; c += blockDim.x) {
    const float p = c < args.classes ? exp_fast(to_float(row[c]) - running.largest) / running.sum : 0.0F;
    row[c] = from_float<T>(c < args.classes ? (c == target ? p - 1.0F : p) * args.gradient_scale : 0.0F);
  }
}

template <typename T>
void run(const Exec& exec, const LossArgs<T>& args, std::int64_t rows) {
  const auto ctas = static_cast<unsigned>(rows);
  const std::int64_t row_bytes = args.cols * static_cast<std::int64_t>(sizeof(T));
  const bool aligned = row_bytes % 16 == 0 && reinterpret_cast<std::uintptr_t>(args.logits) % 16 == 0;
  if (!aligned || row_bytes > kMaxStagedBytes) {
    loss_any_kernel<T><<<ctas, 256, 0, cuda_stream(exec)>>>(args);
    QAT_CUDA_CHECK(cudaGetLastError());
    return;
  }
  const int bytes = args.with_gradient ? static_cast<int>(row_bytes) : 0;
  if (bytes > 40 * 1024)  // static shared memory counts towards the 48 KB too
    QAT_CUDA_CHECK(cudaFuncSetAttribute(loss_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  // As many warps as fit a multiprocessor with its registers, spread over as many rows as fit its shared memory.
  const int threads = bytes > 112 * 1024 ? kMaxThreads : (row_bytes >= 32 * 1024 ? kMaxThreads / 2 : 256);
  loss_kernel<T><<<ctas, threads, bytes, cuda_stream(exec)>>>(args);
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void softmax_cross_entropy_cuda(const Exec& exec, FloatMatrix logits, std::int64_t classes,
                                std::span<const std::int64_t> targets, bool with_gradient, float gradient_scale,
                                std::span<float> losses) {
  if (logits.rows == 0) return;
  const auto run_as = [&]<typename T>(T* data) {
    run(exec, LossArgs<T>{data, targets.data(), losses.data(), logits.cols, classes, gradient_scale, with_gradient},
        logits.rows);
  };
  if (logits.dtype == DType::kBFloat16)
    run_as(static_cast<__nv_bfloat16*>(logits.data));
  else
    run_as(static_cast<float*>(logits.data));
}

}  // namespace qat::kernels
