// Row codes and column maxima of narrow gradients: those of an adapter's hidden values, 8 to 64 columns wide. Here a
// row is a few lanes, so a warp holds several and no barrier is needed.
#include <algorithm>

#include "kernels/common/codes.cuh"
#include "kernels/common/cuda_check.h"
#include "kernels/common/float_vectors.cuh"
#include "kernels/quant/code_passes_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 132 * 8;

// A row is kLanes lanes of eight columns; a thread keeps its columns from row to row.
template <typename T, int kLanes, bool kStochastic>
__global__ void __launch_bounds__(kThreads) narrow_rows_kernel(const NarrowRows a) {
  __shared__ std::uint32_t block_max[kLanes * kGroup];
  const int group = static_cast<int>(threadIdx.x) % kLanes;
  if (threadIdx.x < kLanes * kGroup) block_max[threadIdx.x] = 0;
  __syncthreads();
  float col_factor[kGroup], col_max[kGroup];
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    col_factor[j] = a.col_factors != nullptr ? a.col_factors[group * kGroup + j] : 1.0F;
    col_max[j] = 0.0F;
  }
  constexpr std::int64_t kCols = kLanes * kGroup, kRowsAtOnce = kThreads / kLanes;
  const std::int64_t step = kRowsAtOnce * gridDim.x;
  // Lanes beyond the last row take part in the shuffles.
  for (std::int64_t begin = blockIdx.x * kRowsAtOnce; begin < a.rows; begin += step) {
    const std::int64_t row = begin + static_cast<int>(threadIdx.x) / kLanes;
    const bool active = row < a.rows;
    const std::int64_t at = row * kCols + group * kGroup;
    const Raw8<T> g = active ? load8(static_cast<const T*>(a.g) + at) : Raw8<T>{};
    const float row_factor = active && a.row_factors != nullptr ? a.row_factors[row] : 1.0F;
    float row_max = 0.0F;
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      col_max[j] = max_magnitude(col_max[j], element(g, j) * row_factor);
      row_max = max_magnitude(row_max, element(g, j) * col_factor[j]);
    }
    std::uint32_t bits = __float_as_uint(row_max);
#pragma unroll
    for (int lanes = 1; lanes < kLanes; lanes *= 2) bits = max(bits, __shfl_xor_sync(kWholeWarp, bits, lanes));
    if (!active) continue;
    const float scale = scale_of_max_bits(bits, a.floor, a.q_max);
    const float inverse = __frcp_rn(scale), limit = limit_of(inverse, a.q_max);
    if (group == 0) a.row_scales[row] = scale;
    Draws8 draws{};
    if constexpr (kStochastic) draws = draws_of(a.keys, static_cast<std::uint64_t>(at) / kGroup);
    std::uint32_t code[kGroup];
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      const float v = clamp_magnitude(element(g, j) * col_factor[j] * inverse, limit);
      code[j] = rounded_code<kStochastic>(v, draws, j);
    }
    *reinterpret_cast<uint2*>(a.codes + at) = pack_codes<kStochastic>(code);
  }
  if (a.max_bits == nullptr) return;
#pragma unroll
  for (int j = 0; j < kGroup; ++j) atomicMax(block_max + group * kGroup + j, __float_as_uint(col_max[j]));
  __syncthreads();
  if (threadIdx.x < kLanes * kGroup) atomicMax(a.max_bits + threadIdx.x, block_max[threadIdx.x]);
}

template <typename T, int kLanes>
void launch(const NarrowRows& a, bool stochastic, cudaStream_t stream) {
  constexpr std::int64_t kRowsAtOnce = kThreads / kLanes;
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((a.rows + kRowsAtOnce - 1) / kRowsAtOnce, kBlocks));
  if (stochastic)
    narrow_rows_kernel<T, kLanes, true><<<blocks, kThreads, 0, stream>>>(a);
  else
    narrow_rows_kernel<T, kLanes, false><<<blocks, kThreads, 0, stream>>>(a);
  QAT_CUDA_CHECK(cudaGetLastError());
}

template <typename T>
void launch(const NarrowRows& a, std::int64_t cols, bool stochastic, cudaStream_t stream) {
  switch (cols / kGroup) {
    case 1:
      return launch<T, 1>(a, stochastic, stream);
    case 2:
      return launch<T, 2>(a, stochastic, stream);
    case 4:
      return launch<T, 4>(a, stochastic, stream);
    default:
      return launch<T, 8>(a, stochastic, stream);
  }
}

}  // namespace

bool takes_narrow_rows(std::int64_t cols) noexcept { return cols == 8 || cols == 16 || cols == 32 || cols == 64; }

void code_narrow_rows_cuda(const Exec& exec, const NarrowRows& a, std::int64_t cols, DType dtype, bool stochastic) {
  if (dtype == DType::kBFloat16)
    launch<__nv_bfloat16>(a, cols, stochastic, cuda_stream(exec));
  else
    launch<float>(a, cols, stochastic, cuda_stream(exec));
}

}  // namespace qat::kernels
