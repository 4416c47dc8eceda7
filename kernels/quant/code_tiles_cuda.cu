// Codes with known scales, in tiles of 128 rows x 64 columns that are transposed on their way through shared memory.
#include <algorithm>

#include "kernels/common/codes.cuh"
#include "kernels/common/cuda_check.h"
#include "kernels/common/float_vectors.cuh"
#include "kernels/quant/code_passes_cuda.h"
#include "kernels/quant/side_by_side.cuh"

namespace qat::kernels {
namespace {

constexpr int kTileRows = 128;  // of the transposed copy: runs of 128 bytes
constexpr int kTileCols = 64;
constexpr int kThreads = 256;
constexpr int kThreadRows = 4;  // consecutive: the codes of one column make a word of the transposed copy
constexpr std::int64_t kTargetBlocks = 132 * 8;

struct TileArgs {
  SideBySide x;
  std::int64_t rows, cols;
  const float* row_factors;  // null: ones
  const float* col_factors;
  const float* levels;        // by column: reciprocals of the scales; by row: the scales
  std::int64_t scale_stride;  // by row: 0 if there is one scale for all
  float q_max;
  RoundingKeys keys;
  std::int8_t* codes;  // either may be null
  std::int8_t* transposed;
  unsigned tiles_across, strips;  // block b codes the tiles b / tiles_across + i strips down of column b % tiles_across
  bool paired;                    // cols % 16 == 0: neighbouring lanes own the halves of the same Philox blocks
};

template <bool kByColumn>
__device__ float inverse_for(const TileArgs& a, std::int64_t r, std::int64_t c) {
  if constexpr (kByColumn) return a.levels[c];
  return __frcp_rn(a.levels[r * a.scale_stride]);
}

// Blocks on a multiprocessor: as many as need no local memory.
constexpr int blocks_at_once(bool bf16, bool col_factors, bool stochastic) {
  if (bf16) return stochastic || col_factors ? 3 : 4;
  return stochastic || col_factors ? 2 : 3;
}

// Those of the group `eighth` and of the one in the next row.
__device__ void draws_of_two_rows(const TileArgs& a, std::uint64_t eighth, Draws8 (&draws)[2]) {
  const std::uint64_t below = eighth + static_cast<std::uint64_t>(a.cols) / kGroup;
  if (a.paired) {
    draws_of_pair(a.keys, eighth, below, draws[0], draws[1]);
  } else {
    draws[0] = draws_of(a.keys, eighth);
    draws[1] = draws_of(a.keys, below);
  }
}

// A column word of four rows takes its next row's code (the first row's stays where it is until the second's comes).
template <bool kStochastic>
__device__ std::uint32_t insert_code(std::uint32_t word, std::uint32_t code, int row) {
  constexpr unsigned kByte = code_byte<kStochastic>;
  if (row == 0) return code;
  return __byte_perm(word, code,
                     row == 1   ? 0x0040U + 0x0011U * kByte
                     : row == 2 ? 0x3410U + 0x0100U * kByte
                                : 0x4210U + 0x1000U * kByte);
}

// What a thread reads of a tile: 4 rows x 8 columns.
template <typename T>
struct Piece {
  Raw8<T> raw[kThreadRows];
  float row_factor[kThreadRows];

  // Rows r ... of which `here` exist, the first at `from`. The others are zeros.
  __device__ __forceinline__ void load(const TileArgs& a, const T* from, std::int64_t stride, std::int64_t r,
                                       int here) {
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i, from += stride) raw[i] = i < here ? load8(from) : Raw8<T>{};
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i)
      row_factor[i] = a.row_factors != nullptr && i < here ? a.row_factors[r + i] : 1.0F;
  }
};

__device__ __forceinline__ int rows_here(const TileArgs& a, std::int64_t r, bool across) {
  if (!across || r >= a.rows) return 0;
  return a.rows - r < kThreadRows ? static_cast<int>(a.rows - r) : kThreadRows;
}

// The tile in shared memory is [64 columns][8 groups of 16 rows], group h of column c at h ^ (c / 8): a warp's writes
// (8 column groups x 4 words) then fall into 32 different banks, and so do its reads.
__device__ __forceinline__ void keep_in_tile(uint4* tile, const std::uint32_t (&words)[kGroup]) {
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane % 8;
  std::uint32_t* to = reinterpret_cast<std::uint32_t*>(tile) + group * kGroup * 32 + (warp ^ group) * 4 + lane / 8;
#pragma unroll
  for (int j = 0; j < kGroup; ++j) to[j * 32] = words[j];
}
// out: where this thread's first 16 codes go, those of column threadIdx.x / 8 of `cols_here`.
__device__ __forceinline__ void write_tile(const uint4* tile, std::int8_t* out, std::int64_t rows, int cols_here) {
  const unsigned rows16 = threadIdx.x % 8;
#pragma unroll
  for (unsigned col = threadIdx.x / 8; col < kTileCols; col += kThreads / 8, out += kThreads / 8 * rows)
    if (static_cast<int>(col) < cols_here) *reinterpret_cast<uint4*>(out) = tile[col * 8 + (rows16 ^ (col / 8))];
}

// A thread works on 4 rows x 8 columns of each tile, and reads the next tile while the block writes this one. Beyond
// the edges it works on zeros, so that warps stay whole.
template <typename T, bool kByColumn, bool kColFactors, bool kStochastic>
__global__ void __launch_bounds__(kThreads, blocks_at_once(sizeof(T) == 2, kColFactors, kStochastic))
    code_tiles_kernel(const __grid_constant__ TileArgs a) {
  __shared__ uint4 tiles[2][kTileCols * 8];
  const unsigned lane = threadIdx.x % 32, quad = threadIdx.x / 32 * 4 + lane / 8;
  const std::int64_t tile_col = static_cast<std::int64_t>(blockIdx.x % a.tiles_across) * kTileCols;
  const std::int64_t c = tile_col + lane % 8 * kGroup;
  const bool across = c < a.cols;
  std::int64_t tile_row = static_cast<std::int64_t>(blockIdx.x / a.tiles_across) * kTileRows;
  std::int64_t r = tile_row + quad * kThreadRows;
  const std::int64_t step = static_cast<std::int64_t>(a.strips) * kTileRows;
  const Column<T> column(a.x, across ? c : 0);
  const T* from = column.row(r);
  Piece<T> piece;
  piece.load(a, from, column.stride, r, rows_here(a, r, across));
  float inverse[kGroup], col_factor[kGroup];
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    if constexpr (kByColumn) inverse[j] = across ? a.levels[c + j] : 0.0F;
    if constexpr (kColFactors) col_factor[j] = across ? a.col_factors[c + j] : 0.0F;
  }
  bool marked = false;  // a column has the scale NaN
#pragma unroll
  for (int j = 0; j < kGroup; ++j) marked |= kByColumn && inverse[j] != inverse[j];
  const unsigned rows16 = threadIdx.x % 8 * 16;  // of a tile, as this thread writes it
  std::int8_t* out = a.transposed + (tile_col + threadIdx.x / 8) * a.rows + tile_row + rows16;
  const int cols_here = static_cast<int>(min(static_cast<std::int64_t>(kTileCols), a.cols - tile_col));
  const auto row_eighths = static_cast<std::uint64_t>(a.cols) / kGroup;
  auto first_eighth = static_cast<std::uint64_t>(r * a.cols + c) / kGroup;
  for (int turn = 0; tile_row < a.rows; turn ^= 1, tile_row += step) {
    const int here = rows_here(a, r, across);
    std::uint32_t words[kGroup];
    Draws8 draws[2] = {};  // of an even row and the next
    std::uint64_t eighth = first_eighth;
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i, eighth += row_eighths) {
      if constexpr (kStochastic)
        if (i % 2 == 0) draws_of_two_rows(a, eighth, draws);
      const float row_inverse = kByColumn || i >= here ? 0.0F : inverse_for<false>(a, r + i, c);
      std::uint32_t code[kGroup];
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        float y = element(piece.raw[i], j) * piece.row_factor[i];
        if constexpr (kColFactors) y *= col_factor[j];
        float v = y * (kByColumn ? inverse[j] : row_inverse);
        if constexpr (!kByColumn) v = clamp_magnitude(v == v ? v : 0.0F, a.q_max);  // the scales are given
        code[j] = rounded_code<kStochastic>(v, draws[i % 2], j);
        words[j] = insert_code<kStochastic>(words[j], code[j], i);
      }
      if (a.codes != nullptr && i < here) {
        if (marked) zero_marked(code, inverse);
        *reinterpret_cast<uint2*>(a.codes + eighth * kGroup) = pack_codes<kStochastic>(code);
      }
    }
    if (a.transposed != nullptr) {
      if (marked) zero_marked(words, inverse);
      keep_in_tile(tiles[turn], words);
    }
    r += step;
    from += step * column.stride;
    first_eighth += static_cast<std::uint64_t>(step) * row_eighths;
    piece.load(a, from, column.stride, r, rows_here(a, r, across));
    if (a.transposed == nullptr) continue;
    __syncthreads();  // one a tile: who writes this half again has passed the barrier of the other
    write_tile(tiles[turn], out, a.rows, tile_row + rows16 < a.rows ? cols_here : 0);
    out += step;
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
    float shifted = 0.0F;
    if constexpr (kStochastic) shifted = shifted_draw(rounding_byte_at(a.keys, static_cast<std::uint64_t>(i)));
    const std::uint32_t code = kStochastic ? stochastic_code(v, shifted) >> 8 : nearest_code(v);
    if (a.codes != nullptr) a.codes[i] = static_cast<std::int8_t>(code);
    if (a.transposed != nullptr) a.transposed[c * a.rows + r] = static_cast<std::int8_t>(code);
  }
}

template <typename T, bool kByColumn, bool kStochastic>
void launch(const TileArgs& a, bool vector, cudaStream_t stream) {
  if (vector) {
    const unsigned blocks = a.tiles_across * a.strips;
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
  const std::int64_t tiles_across = (cols + kTileCols - 1) / kTileCols, tiles_down = (rows + kTileRows - 1) / kTileRows;
  const std::int64_t strips = std::clamp<std::int64_t>(kTargetBlocks / tiles_across, 1, tiles_down);
  const TileArgs a{.x = side_by_side(pass.x),
                   .rows = rows,
                   .cols = cols,
                   .row_factors = pass.factors.row_factors.empty() ? nullptr : pass.factors.row_factors.data(),
                   .col_factors = pass.factors.col_factors.empty() ? nullptr : pass.factors.col_factors.data(),
                   .levels = levels,
                   .scale_stride = scale_stride,
                   .q_max = static_cast<float>(pass.options.width.q_max()),
                   .keys = rounding_keys(pass.options.key),
                   .codes = pass.out.codes.empty() ? nullptr : pass.out.codes.data,
                   .transposed = pass.out.codes_transposed.empty() ? nullptr : pass.out.codes_transposed.data,
                   .tiles_across = static_cast<unsigned>(tiles_across),
                   .strips = static_cast<unsigned>(strips),
                   .paired = cols % kRoundingDraws == 0};
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
