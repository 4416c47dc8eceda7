// Codes with known scales, in tiles of 128 rows x 64 columns that are transposed on their way through shared memory.
#include <algorithm>

#include "kernels/common/cuda_check.h"
#include "kernels/quant/quant_device.cuh"

namespace qat::kernels {
namespace {

constexpr int kTileRows = 128;  // of the transposed copy: runs of 128 bytes
constexpr int kTileCols = 64;
constexpr int kThreads = 256;
constexpr int kThreadRows = 4;  // consecutive: the codes of one column make a word of the transposed copy

struct TileArgs {
  SideBySide x;
  std::int64_t rows, cols;
  const float* row_factors;  // null: ones
  const float* col_factors;
  const float* levels;        // by column: reciprocals of the scales; by row: the scales
  std::int64_t scale_stride;  // by row: 0 if there is one scale for all
  float q_max;
  RngKey key;
  std::int8_t* codes;  // either may be null
  std::int8_t* transposed;
  std::int64_t tiles_across;
};

template <bool kByColumn>
__device__ float inverse_for(const TileArgs& a, std::int64_t r, std::int64_t c) {
  if constexpr (kByColumn) return a.levels[c];
  return __frcp_rn(a.levels[r * a.scale_stride]);
}

// Blocks on a multiprocessor: as many as need no local memory.
constexpr int blocks_at_once(bool bf16, bool col_factors, bool stochastic) {
  if (bf16) return stochastic ? 3 : 4;
  return stochastic && col_factors ? 2 : 3;
}

// Columns whose scale is NaN have the code 0.
__device__ void zero_marked(std::uint32_t (&codes)[kGroup], const float (&inverse)[kGroup]) {
#pragma unroll
  for (int j = 0; j < kGroup; ++j) codes[j] = inverse[j] == inverse[j] ? codes[j] : 0;
}

// A thread codes 4 rows x 8 columns. The tile in shared memory is [64 columns][8 groups of 16 rows], group h of column
// c at h ^ (c / 8): a warp's writes (8 column groups x 4 words) then fall into 32 different banks, and so do its reads.
template <typename T, bool kByColumn, bool kColFactors, bool kStochastic>
__global__ void __launch_bounds__(kThreads, blocks_at_once(sizeof(T) == 2, kColFactors, kStochastic))
    code_tiles_kernel(const TileArgs a) {
  __shared__ uint4 tile[kTileCols * 8];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int group = lane % 8, quad = warp * 4 + lane / 8;
  const std::int64_t tile_row = blockIdx.x / a.tiles_across * kTileRows;
  const std::int64_t tile_col = blockIdx.x % a.tiles_across * kTileCols;
  const std::int64_t c = tile_col + group * kGroup, r = tile_row + quad * kThreadRows;
  if (c < a.cols && r < a.rows) {
    const int here = a.rows - r < kThreadRows ? static_cast<int>(a.rows - r) : kThreadRows;
    const Column<T> column(a.x, c);
    const T* from = column.row(r);
    Raw8<T> raw[kThreadRows];
    float row_factor[kThreadRows];
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i, from += column.stride)
      if (i < here) raw[i] = load8(from);
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i)
      row_factor[i] = a.row_factors != nullptr && i < here ? a.row_factors[r + i] : 1.0F;
    float inverse[kGroup], col_factor[kGroup];
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      if constexpr (kByColumn) inverse[j] = a.levels[c + j];
      if constexpr (kColFactors) col_factor[j] = a.col_factors[c + j];
    }
    std::uint32_t words[kGroup];
    std::uint64_t block = static_cast<std::uint64_t>(r * a.cols + c) / kGroup;
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i, block += static_cast<std::uint64_t>(a.cols) / kGroup) {
      Philox4 draws;
      if constexpr (kStochastic) draws = rounding_block(a.key, block);
      const float row_inverse = kByColumn || i >= here ? 0.0F : inverse_for<false>(a, r + i, c);
      std::uint32_t code[kGroup];
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        float y = raw[i].at(j) * row_factor[i];
        if constexpr (kColFactors) y *= col_factor[j];
        float v = y * (kByColumn ? inverse[j] : row_inverse);
        if constexpr (!kByColumn) v = v == v ? v : 0.0F;  // given scales: a NaN among finite neighbours
        v = clamp_magnitude(v, a.q_max);
        code[j] = kStochastic ? stochastic_code(v, draw_of(draws, j)) : nearest_code(v);
        constexpr unsigned kInsert[] = {0x3210U, 0x3240U, 0x3410U, 0x4210U};
        words[j] = i == 0 ? code[j] : __byte_perm(words[j], code[j], kInsert[i]);
      }
      if (a.codes != nullptr && i < here) {
        if constexpr (kByColumn) zero_marked(code, inverse);
        *reinterpret_cast<uint2*>(a.codes + block * kGroup) = pack8(code);
      }
    }
    if constexpr (kByColumn) zero_marked(words, inverse);
    if (a.transposed != nullptr) {
      auto* tile_words = reinterpret_cast<std::uint32_t*>(tile);
#pragma unroll
      for (int j = 0; j < kGroup; ++j)
        tile_words[(group * kGroup + j) * 32 + ((warp ^ group) * 4 + lane / 8)] = words[j];
    }
  }
  if (a.transposed == nullptr) return;
  __syncthreads();
#pragma unroll
  for (int piece = static_cast<int>(threadIdx.x); piece < kTileCols * 8; piece += kThreads) {
    const int col = piece / 8, rows16 = piece % 8;
    const std::int64_t to_row = tile_col + col, to_col = tile_row + rows16 * 16;
    if (to_row < a.cols && to_col < a.rows)
      *reinterpret_cast<uint4*>(a.transposed + to_row * a.rows + to_col) = tile[col * 8 + (rows16 ^ (col / 8))];
  }
}

// Any shape and alignment, an element a thread.
template <typename T, bool kByColumn, bool kStochastic>
__global__ void __launch_bounds__(kThreads) code_elements_kernel(const TileArgs a) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < a.rows * a.cols;
       i += step) {
    const std::int64_t r = i / a.cols, c = i % a.cols;
    float y = to_float(*Column<T>(a.x, c).row(r)) * (a.row_factors != nullptr ? a.row_factors[r] : 1.0F);
    if (a.col_factors != nullptr) y *= a.col_factors[c];
    const float inverse = inverse_for<kByColumn>(a, r, c);
    float v = y * inverse;
    v = v == v ? v : 0.0F;
    v = clamp_magnitude(v, limit_of(inverse, a.q_max));
    const std::uint32_t code =
        kStochastic ? stochastic_code(v, rounding_uniform_at(a.key, static_cast<std::uint64_t>(i))) : nearest_code(v);
    if (a.codes != nullptr) a.codes[i] = static_cast<std::int8_t>(code);
    if (a.transposed != nullptr) a.transposed[c * a.rows + r] = static_cast<std::int8_t>(code);
  }
}

template <typename T, bool kByColumn, bool kStochastic>
void launch(const TileArgs& a, bool vector, cudaStream_t stream) {
  if (vector) {
    const auto blocks = static_cast<unsigned>(a.tiles_across * ((a.rows + kTileRows - 1) / kTileRows));
    if (a.col_factors != nullptr)
      code_tiles_kernel<T, kByColumn, true, kStochastic><<<blocks, kThreads, 0, stream>>>(a);
    else
      code_tiles_kernel<T, kByColumn, false, kStochastic><<<blocks, kThreads, 0, stream>>>(a);
  } else {
    const auto blocks = std::min<std::int64_t>((a.rows * a.cols + kThreads - 1) / kThreads, 132 * 16);
    code_elements_kernel<T, kByColumn, kStochastic><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(a);
  }
  QAT_CUDA_CHECK(cudaGetLastError());
}

template <bool kByColumn>
void code_elements(const Exec& exec, const CodePass& pass, const float* levels, std::int64_t scale_stride) {
  const std::int64_t rows = rows_of(pass.x), cols = cols_of(pass.x);
  if (rows == 0 || cols == 0) return;
  const TileArgs a{.x = side_by_side(pass.x),
                   .rows = rows,
                   .cols = cols,
                   .row_factors = pass.factors.row_factors.empty() ? nullptr : pass.factors.row_factors.data(),
                   .col_factors = pass.factors.col_factors.empty() ? nullptr : pass.factors.col_factors.data(),
                   .levels = levels,
                   .scale_stride = scale_stride,
                   .q_max = static_cast<float>(pass.options.width.q_max()),
                   .key = pass.options.key,
                   .codes = pass.out.codes.empty() ? nullptr : pass.out.codes.data,
                   .transposed = pass.out.codes_transposed.empty() ? nullptr : pass.out.codes_transposed.data,
                   .tiles_across = (cols + kTileCols - 1) / kTileCols};
  const bool vector = has_vector_rows(pass.x) && is_aligned(a.codes, 8) && is_aligned(a.transposed, 16) &&
                      (a.transposed == nullptr || rows % 16 == 0);
  const bool stochastic = pass.options.rounding == Rounding::kStochastic;
  const auto stream = cuda_stream(exec);
  if (pass.x.parts[0].dtype == DType::kBFloat16)
    stochastic ? launch<__nv_bfloat16, kByColumn, true>(a, vector, stream)
               : launch<__nv_bfloat16, kByColumn, false>(a, vector, stream);
  else
    stochastic ? launch<float, kByColumn, true>(a, vector, stream) : launch<float, kByColumn, false>(a, vector, stream);
}

}  // namespace

bool has_vector_rows(const GradientColumns& x) {
  for (int p = 0; p < x.count; ++p) {
    const ConstFloatMatrix& part = x.parts[static_cast<std::size_t>(p)];
    if (part.cols % kGroup != 0 || part.stride % kGroup != 0 || !is_aligned(part.data, 16)) return false;
  }
  return true;
}

void code_by_row_cuda(const Exec& exec, const CodePass& pass, std::span<const float> scales) {
  code_elements<false>(exec, pass, scales.data(), scales.size() == 1 ? 0 : 1);
}

void code_by_column_cuda(const Exec& exec, const CodePass& pass, const float* inverses) {
  code_elements<true>(exec, pass, inverses, 0);
}

}  // namespace qat::kernels
