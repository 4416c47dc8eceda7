// A block has one head of one sequence. In order:
//
//   1. the query goes to shared memory as fp32, with 1 / sqrt(d_h);
//   2. neighbouring lanes share out a key, 16 bytes each, so that a warp reads whole sectors of some keys at a time,
//   and
//      add up their parts of its score;
//   3. the block agrees on the largest score and on the sum of the exponentials;
//   4. threads share out the values: kVector neighbouring columns each, and every n-th token, of whose n partial sums
//      the first threads make the result, in order.
//
// One block a head fills the GPU from some hundred heads on: 11 sequences of GPT-2 small. Fewer leave it part idle, in
// a pass whose time is that of its launches.
#include <cuda_bf16.h>

#include <cstdint>
#include <string>

#include "kernels/attention/cached_attention_cuda.h"
#include "kernels/common/cuda_check.h"
#include "kernels/common/error.h"
#include "kernels/common/float_vectors.cuh"
#include "kernels/common/row_group.cuh"

namespace qat::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

struct Args {
  const void* q;
  std::int64_t q_stride;
  const void* kept;
  const float* scales;  // null: floats
  const std::int64_t* lengths;
  std::int64_t capacity;
  int heads, head_width;
  void* y;
};

__device__ __forceinline__ float to_number(std::int8_t code) { return static_cast<float>(code); }
template <typename T>
__device__ __forceinline__ float to_number(T value) {
  return to_float(value);
}

// kVector neighbouring elements, read at once from an address that is a multiple of their size.
template <int kVector, typename T>
__device__ __forceinline__ void load(const T* from, float (&to)[kVector]) {
  struct alignas(kVector * sizeof(T)) Vector {
    T v[kVector];
  };
  const Vector vector = *reinterpret_cast<const Vector*>(from);
#pragma unroll
  for (int i = 0; i < kVector; ++i) to[i] = to_number(vector.v[i]);
}

// The same value for all threads of the block, added up or compared in an order that is always the same.
template <bool kMax>
__device__ float over_block(float value, float* slots) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(~0U, value, offset);
    value = kMax ? fmaxf(value, other) : value + other;
  }
  __syncthreads();  // the slots may still be read from the time before
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = value;
  __syncthreads();
  float result = slots[0];
#pragma unroll
  for (int i = 1; i < kWarps; ++i) result = kMax ? fmaxf(result, slots[i]) : result + slots[i];
  return result;
}

// Shared memory, floats: kThreads * kVector for partial sums, head_width for the query, capacity for scores.
template <typename Float, typename Kept, int kVector>
__global__ void __launch_bounds__(kThreads) cached_attention_kernel(const Args args) {
  extern __shared__ __align__(16) float shared[];
  __shared__ float slots[kWarps];
  float* const partial = shared;
  float* const query = partial + kThreads * kVector;
  float* const scores = query + (args.head_width + 3) / 4 * 4;
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t row = blockIdx.x / args.heads;
  const int head = static_cast<int>(blockIdx.x % args.heads);
  const std::int64_t width = static_cast<std::int64_t>(args.heads) * args.head_width;
  const auto length = static_cast<int>(args.lengths[row]);
  const Kept* const keys =
      static_cast<const Kept*>(args.kept) + row * args.capacity * 2 * width + head * args.head_width;
  const float* const scales = args.scales == nullptr ? nullptr : args.scales + 2 * row * args.capacity;

  const Float* const q = static_cast<const Float*>(args.q) + row * args.q_stride + head * args.head_width;
  const float inverse_root = rsqrtf(static_cast<float>(args.head_width));
  for (int i = thread; i < args.head_width; i += kThreads) query[i] = to_float(q[i]) * inverse_root;
  __syncthreads();

  const int vectors = args.head_width / kVector;
  const int sharers = vectors >= 32 ? 32 : 1 << (32 - __clz(vectors - 1));  // of a key: a power of two
  const int at_once = 32 / sharers, lane = thread % 32, sharer = lane % sharers;
  float largest = -INFINITY;
#pragma unroll 4  // as many loads on their way
  for (int first = thread / 32 * at_once; first < length; first += kWarps * at_once) {
    const int t = first + lane / sharers;
    float sum = 0.0F;
    if (t < length) {
      const Kept* const key = keys + t * 2 * width;
      for (int v = sharer; v < vectors; v += sharers) {
        float several[kVector];
        load<kVector>(key + v * kVector, several);
#pragma unroll
        for (int j = 0; j < kVector; ++j) sum += query[v * kVector + j] * several[j];
      }
    }
    for (int offset = sharers / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0U, sum, offset);
    if (t >= length) continue;
    if (scales != nullptr) sum *= scales[2 * t];
    if (sharer == 0) scores[t] = sum;
    largest = fmaxf(largest, sum);
  }
  largest = over_block<true>(largest, slots);
  float sum = 0.0F;
  for (int t = thread; t < length; t += kThreads) {
    const float e = __expf(scores[t] - largest);
    sum += e;
    scores[t] = scales != nullptr ? e * scales[2 * t + 1] : e;  // times the value's scale
  }
  sum = over_block<false>(sum, slots);  // after it every thread sees all scores

  const int lanes = args.head_width / kVector;  // of threads that share a token's value
  const int groups = kThreads / lanes, group = thread / lanes, column = thread % lanes * kVector;
  float own[kVector] = {};
  if (group < groups) {
#pragma unroll 8
    for (int t = group; t < length; t += groups) {
      float several[kVector];
      load<kVector>(keys + t * 2 * width + width + column, several);
#pragma unroll
      for (int j = 0; j < kVector; ++j) own[j] += scores[t] * several[j];
    }
#pragma unroll
    for (int j = 0; j < kVector; ++j) partial[group * args.head_width + column + j] = own[j];
  }
  __syncthreads();
  Float* const y = static_cast<Float*>(args.y) + row * width + head * args.head_width;
  for (int i = thread; i < args.head_width; i += kThreads) {
    float result = 0.0F;
    for (int g = 0; g < groups; ++g) result += partial[g * args.head_width + i];
    y[i] = from_float<Float>(__fdividef(result, sum));
  }
}

template <typename Float, typename Kept, int kVector>
void launch(const Exec& exec, const Args& args, std::int64_t sequences) {
  QAT_CHECK(args.head_width <= kThreads * kVector,
            std::to_string(args.head_width) + " elements of a head, where a GPU takes " +
                std::to_string(kThreads * kVector) + " (compute.device \"cpu\" takes any)");
  const std::int64_t floats = kThreads * kVector + (args.head_width + 3) / 4 * 4 + args.capacity;
  const auto bytes = static_cast<int>(floats * 4);
  auto* const kernel = cached_attention_kernel<Float, Kept, kVector>;
  allow_shared_memory(kernel, bytes);
  kernel<<<static_cast<unsigned>(sequences * args.heads), kThreads, static_cast<std::size_t>(bytes),
           cuda_stream(exec)>>>(args);
  QAT_CUDA_CHECK(cudaGetLastError());
}

template <typename Float, typename Kept>
void launch_for(const Exec& exec, const Args& args, std::int64_t sequences) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(Kept));
  const bool aligned = reinterpret_cast<std::uintptr_t>(args.kept) % (kVector * sizeof(Kept)) == 0;
  if (aligned && args.head_width % kVector == 0)
    launch<Float, Kept, kVector>(exec, args, sequences);
  else
    launch<Float, Kept, 1>(exec, args, sequences);
}

}  // namespace

void cached_attention_cuda(const Exec& exec, ConstFloatMatrix q, const KeptTokens& kept, std::int64_t heads,
                           FloatMatrix y) {
  constexpr std::int64_t kMostTokens = 48 * 1024;  // whose scores fit into a multiprocessor's shared memory
  QAT_CHECK(kept.capacity <= kMostTokens, "sequences of at most 49152 tokens");
  const Args args{.q = q.data,
                  .q_stride = q.stride,
                  .kept = kept.data,
                  .scales = kept.scales.empty() ? nullptr : kept.scales.data(),
                  .lengths = kept.lengths.data(),
                  .capacity = kept.capacity,
                  .heads = static_cast<int>(heads),
                  .head_width = static_cast<int>(q.cols / heads),
                  .y = y.data};
  const bool coded = kept.dtype == DType::kInt8;
  if (q.dtype == DType::kBFloat16) {
    coded ? launch_for<__nv_bfloat16, std::int8_t>(exec, args, q.rows)
          : launch_for<__nv_bfloat16, __nv_bfloat16>(exec, args, q.rows);
  } else {
    coded ? launch_for<float, std::int8_t>(exec, args, q.rows) : launch_for<float, float>(exec, args, q.rows);
  }
}

}  // namespace qat::kernels
