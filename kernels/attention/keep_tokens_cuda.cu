// Codes: a block has a token's key, or its value: its largest magnitude first, then its codes. The row is read twice,
// the second time from the first-level cache.
#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/attention/keep_tokens_cuda.h"
#include "kernels/common/codes.cuh"
#include "kernels/common/cuda_check.h"
#include "kernels/quant/encode.h"

namespace qat::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

struct Args {
  const void* x;
  std::int64_t stride;
  const std::int64_t* rows;
  int width;  // of a key
  float q_max;
  std::int8_t* codes;
  float* scales;
};

template <typename Float>
__global__ void __launch_bounds__(kThreads) keep_tokens_kernel(const Args args) {
  __shared__ unsigned slots[kWarps];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t token = blockIdx.x / 2, half = blockIdx.x % 2;
  const Float* const from = static_cast<const Float*>(args.x) + token * args.stride + half * args.width;
  unsigned largest = 0;
  for (int i = thread; i < args.width; i += kThreads) largest = max(largest, magnitude_bits(to_float(from[i])));
  largest = __reduce_max_sync(kWholeWarp, largest);
  if (thread % 32 == 0) slots[thread / 32] = largest;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kWarps; ++i) largest = max(largest, slots[i]);
  const RowCode code(largest, kWeightAmaxFloor, args.q_max);
  const std::int64_t row = args.rows[token];
  std::int8_t* const to = args.codes + (2 * row + half) * args.width;
  for (int i = thread; i < args.width; i += kThreads)
    to[i] = static_cast<std::int8_t>(code.one(to_float(from[i])) & 0xFFU);
  if (thread == 0) args.scales[2 * row + half] = code.scale;
}

// A block copies a token, `pieces` of it, at times of several elements.
template <typename Piece>
__global__ void __launch_bounds__(kThreads)
    keep_floats_kernel(const Piece* x, std::int64_t stride, const std::int64_t* rows, int pieces, Piece* kept) {
  const Piece* const from = x + blockIdx.x * stride;
  Piece* const to = kept + rows[blockIdx.x] * pieces;
  for (int i = static_cast<int>(threadIdx.x); i < pieces; i += kThreads) to[i] = from[i];
}

template <typename Piece>
void keep_floats(const Exec& exec, const ConstFloatMatrix& x, std::span<const std::int64_t> rows,
                 const FloatMatrix& kept) {
  const auto elems = static_cast<std::int64_t>(sizeof(Piece) / size_of(x.dtype));
  keep_floats_kernel<<<static_cast<unsigned>(x.rows), kThreads, 0, cuda_stream(exec)>>>(
      static_cast<const Piece*>(x.data), x.stride / elems, rows.data(), static_cast<int>(x.cols / elems),
      static_cast<Piece*>(kept.data));
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void keep_floats_cuda(const Exec& exec, const ConstFloatMatrix& x, std::span<const std::int64_t> rows,
                      const FloatMatrix& kept) {
  const auto is_whole = [&](std::int64_t elems) {
    return elems * static_cast<std::int64_t>(size_of(x.dtype)) % static_cast<std::int64_t>(sizeof(uint4)) == 0;
  };
  const auto is_aligned = [](const void* data) { return reinterpret_cast<std::uintptr_t>(data) % sizeof(uint4) == 0; };
  if (is_whole(x.stride) && is_whole(x.cols) && is_aligned(x.data) && is_aligned(kept.data))
    keep_floats<uint4>(exec, x, rows, kept);
  else if (x.dtype == DType::kBFloat16)
    keep_floats<__nv_bfloat16>(exec, x, rows, kept);
  else
    keep_floats<float>(exec, x, rows, kept);
}

void keep_tokens_cuda(const Exec& exec, ConstFloatMatrix x, BitWidth width, std::span<const std::int64_t> rows,
                      Matrix<std::int8_t> codes, std::span<float> scales) {
  const Args args{.x = x.data,
                  .stride = x.stride,
                  .rows = rows.data(),
                  .width = static_cast<int>(x.cols / 2),
                  .q_max = static_cast<float>(width.q_max()),
                  .codes = codes.data,
                  .scales = scales.data()};
  const auto blocks = static_cast<unsigned>(2 * x.rows);
  if (x.dtype == DType::kBFloat16)
    keep_tokens_kernel<__nv_bfloat16><<<blocks, kThreads, 0, cuda_stream(exec)>>>(args);
  else
    keep_tokens_kernel<float><<<blocks, kThreads, 0, cuda_stream(exec)>>>(args);
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace qat::kernels
