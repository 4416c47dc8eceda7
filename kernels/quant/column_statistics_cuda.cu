// Sums and largest magnitudes of columns, in one read.
#include <algorithm>

#include "kernels/common/codes.cuh"
#include "kernels/common/device_scratch.h"
#include "kernels/common/float_vectors.cuh"
#include "kernels/quant/code_passes_cuda.h"
#include "kernels/quant/side_by_side.cuh"

namespace qat::kernels {
namespace {

constexpr int kLanes = 32;
constexpr int kRowThreads = 8;
constexpr int kUnroll = 4;
constexpr std::int64_t kMinStripRows = kRowThreads * kUnroll;
constexpr std::int64_t kTargetBlocks = 132 * 8;  // a constant, not the device's: it decides the order of the sums

struct StatisticsArgs {
  SideBySide x;
  std::int64_t rows, cols, strip_rows;
  const float* row_factors;  // null: ones
  const float* col_factors;
  float* partials;  // [strips, cols], or null
  std::uint32_t* max_bits;
};

// Block (32 column groups, 8 rows) over one strip of rows; kVec neighbouring columns a thread.
template <typename T, int kVec>
__global__ void __launch_bounds__(kLanes* kRowThreads) column_statistics_kernel(const StatisticsArgs a) {
  __shared__ float shared[kRowThreads][kLanes * kVec];
  const int lane = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const std::int64_t first_col = static_cast<std::int64_t>(blockIdx.x) * kLanes * kVec, c = first_col + lane * kVec;
  const std::int64_t first = blockIdx.y * a.strip_rows;
  const std::int64_t last = first + a.strip_rows < a.rows ? first + a.strip_rows : a.rows;
  float sum[kVec] = {}, largest[kVec] = {};
  if (c < a.cols) {
    const Column<T> column(a.x, c);
    float col_factor[kVec];
#pragma unroll
    for (int j = 0; j < kVec; ++j) col_factor[j] = a.col_factors != nullptr ? a.col_factors[c + j] : 1.0F;
    for (std::int64_t r = first + y; r < last; r += kRowThreads * kUnroll) {
      float x[kUnroll][kVec], row_factor[kUnroll];
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const std::int64_t row = r + i * kRowThreads;
        row_factor[i] = row < last && a.row_factors != nullptr ? a.row_factors[row] : 1.0F;
        if constexpr (kVec == kGroup) {
          Raw8<T> raw;
          if (row < last) raw = load8(column.row(row));
#pragma unroll
          for (int j = 0; j < kVec; ++j) x[i][j] = element(raw, j);
        } else {
          x[i][0] = row < last ? to_float(*column.row(row)) : 0.0F;
        }
      }
#pragma unroll
      for (int i = 0; i < kUnroll; ++i)
#pragma unroll
        for (int j = 0; j < kVec; ++j) {
          sum[j] += x[i][j];
          // Beyond the last row x is 0; 0 times an infinite factor would be a NaN of no element.
          if (r + i * kRowThreads < last)
            largest[j] = max_magnitude(largest[j], x[i][j] * row_factor[i] * col_factor[j]);
        }
    }
  }
  const int tid = y * kLanes + lane;
  if (a.partials != nullptr) {
#pragma unroll
    for (int j = 0; j < kVec; ++j) shared[y][lane * kVec + j] = sum[j];
    __syncthreads();
    for (int i = tid; i < kLanes * kVec; i += kLanes * kRowThreads) {
      float total = shared[0][i];
#pragma unroll
      for (int k = 1; k < kRowThreads; ++k) total += shared[k][i];
      if (first_col + i < a.cols) a.partials[blockIdx.y * a.cols + first_col + i] = total;
    }
    __syncthreads();
  }
  if (a.max_bits != nullptr) {
#pragma unroll
    for (int j = 0; j < kVec; ++j) shared[y][lane * kVec + j] = largest[j];
    __syncthreads();
    for (int i = tid; i < kLanes * kVec; i += kLanes * kRowThreads) {
      float most = shared[0][i];
#pragma unroll
      for (int k = 1; k < kRowThreads; ++k) most = max_magnitude(most, shared[k][i]);
      // A maximum of integers is the same in every order.
      if (first_col + i < a.cols) atomicMax(a.max_bits + first_col + i, __float_as_uint(most));
    }
  }
}

constexpr int kFinishRows = 32;

struct FinishArgs {
  std::int64_t cols, strips;
  const float* partials;
  const std::uint32_t* max_bits;
  float* sums;
  float* scales;
  float* inverses;
  float amax_floor, q_max;
};

__global__ void __launch_bounds__(kLanes* kFinishRows) finish_columns_kernel(const FinishArgs a) {
  __shared__ float shared[kFinishRows][kLanes];
  const int lane = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kLanes + lane;
  if (a.sums != nullptr) {
    float sum = 0.0F;
    if (c < a.cols) {
#pragma unroll 4
      for (std::int64_t s = y; s < a.strips; s += kFinishRows) sum += a.partials[s * a.cols + c];
    }
    shared[y][lane] = sum;
    __syncthreads();
    if (y == 0 && c < a.cols) {
      for (int k = 1; k < kFinishRows; ++k) sum += shared[k][lane];
      a.sums[c] = sum;
    }
  }
  if (a.scales != nullptr && y == 0 && c < a.cols) {
    const float scale = scale_of_max_bits(a.max_bits[c], a.amax_floor, a.q_max);
    a.scales[c] = scale;
    a.inverses[c] = __frcp_rn(scale);
  }
}

template <typename T>
void launch(const StatisticsArgs& a, bool vector, std::int64_t blocks_across, std::int64_t strips,
            cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(blocks_across), static_cast<unsigned>(strips)), block(kLanes, kRowThreads);
  if (vector)
    column_statistics_kernel<T, kGroup><<<grid, block, 0, stream>>>(a);
  else
    column_statistics_kernel<T, 1><<<grid, block, 0, stream>>>(a);
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void finish_columns_cuda(const Exec& exec, std::int64_t cols, const float* partials, std::int64_t strips,
                         const std::uint32_t* max_bits, const ColumnStatistics& out) {
  if (cols == 0) return;
  const FinishArgs a{cols,
                     strips,
                     partials,
                     max_bits,
                     out.sums.empty() ? nullptr : out.sums.data(),
                     out.scales.empty() ? nullptr : out.scales.data(),
                     out.inverses,
                     out.amax_floor,
                     out.q_max};
  finish_columns_kernel<<<static_cast<unsigned>((cols + kLanes - 1) / kLanes), dim3(kLanes, kFinishRows), 0,
                          cuda_stream(exec)>>>(a);
  QAT_CUDA_CHECK(cudaGetLastError());
}

void column_statistics_cuda(const Exec& exec, const GradientColumns& x, const Factors& factors,
                            const ColumnStatistics& out) {
  const std::int64_t rows = rows_of(x), cols = cols_of(x);
  if (cols == 0) return;
  const bool vector = has_vector_rows(x);
  const std::int64_t block_cols = kLanes * (vector ? kGroup : 1);
  const std::int64_t blocks_across = (cols + block_cols - 1) / block_cols;
  const std::int64_t wanted = std::min<std::int64_t>((kTargetBlocks + blocks_across - 1) / blocks_across, 65535);
  const std::int64_t strip_rows = std::max(kMinStripRows, (rows + wanted - 1) / wanted);
  const std::int64_t strips = (rows + strip_rows - 1) / strip_rows;
  const DeviceScratch<float> partials(exec, out.sums.empty() ? 0 : strips * cols);
  const DeviceScratch<std::uint32_t> max_bits(exec, out.scales.empty() ? 0 : cols);
  if (!out.scales.empty())
    QAT_CUDA_CHECK(
        cudaMemsetAsync(max_bits.get(), 0, static_cast<std::size_t>(cols) * sizeof(std::uint32_t), cuda_stream(exec)));
  if (rows > 0) {
    const StatisticsArgs a{side_by_side(x),
                           rows,
                           cols,
                           strip_rows,
                           factors.row_factors.empty() ? nullptr : factors.row_factors.data(),
                           factors.col_factors.empty() ? nullptr : factors.col_factors.data(),
                           partials.get(),
                           max_bits.get()};
    if (x.parts[0].dtype == DType::kBFloat16)
      launch<__nv_bfloat16>(a, vector, blocks_across, strips, cuda_stream(exec));
    else
      launch<float>(a, vector, blocks_across, strips, cuda_stream(exec));
  }
  finish_columns_cuda(exec, cols, partials.get(), strips, max_bits.get(), out);
}

}  // namespace qat::kernels
