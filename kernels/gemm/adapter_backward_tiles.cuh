// How adapter_products_kernel cuts g, and where a tile of it stands in shared memory.
#pragma once

#include "kernels/gemm/adapter_backward_cuda.h"
#include "kernels/quant/side_by_side.cuh"

namespace qat::kernels {

constexpr int kStripRows = 512;
constexpr int kStepRows = 128;
constexpr int kSteps = kStripRows / kStepRows;  // of a tile; step i lies in slot i of the ring
constexpr int kTileCols = 128;
constexpr int kThreads = 256;  // two warpgroups: for dh each has 64 rows of a step, for db 64 columns of the tile
constexpr int kHalfCols = 64;  // 128 bytes: the longest row that the matrix unit takes
constexpr int kHalfBytes = kStepRows * kHalfCols * 2;
constexpr int kSlotBytes = 2 * kHalfBytes;

// Column codes of g * row_factors, to be written transposed.
struct ColumnArgs {
  const float* row_factors;  // [rows]
  const float* scales;       // [cols]
  RoundingKeys keys;
  std::int8_t* codes;  // [cols, rows]
};

// The rows of a block, within g: [rows, cols].
struct Strip {
  std::int64_t first_row, rows, cols;
};

struct ProductArgs {
  SideBySide g;
  std::int64_t tiles_end[3];  // tiles of the parts up to this one: no tile spans two parts
  std::int64_t rows, cols, tiles;
  int rank;
  const __nv_bfloat16* b;
  const __nv_bfloat16* h;
  const float* x_scales;
  AdapterPartials out;
  ColumnArgs columns;
};

// Neighbouring columns of one part, and what b and db call the first of them.
struct Tile {
  const __nv_bfloat16* g;  // row 0
  std::int64_t stride, first_col;
  int cols;  // to the end of the part: may be more than a tile

  __device__ Tile(const ProductArgs& a, std::int64_t tile) {
    const int p = tile < a.tiles_end[0] ? 0 : tile < a.tiles_end[1] ? 1 : 2;
    const std::int64_t tiles_before = p == 0 ? 0 : p == 1 ? a.tiles_end[0] : a.tiles_end[1];
    const std::int64_t begin = p == 0 ? 0 : p == 1 ? a.g.end[0] : a.g.end[1];
    first_col = begin + (tile - tiles_before) * kTileCols;
    const Column<__nv_bfloat16> column(a.g, first_col);
    g = column.first;
    stride = column.stride;
    cols = static_cast<int>((p == 0 ? a.g.end[0] : p == 1 ? a.g.end[1] : a.g.end[2]) - first_col);
  }
};

// The place of a byte in rows of kRowBytes (32, 64 or 128) as the matrix unit wants them: pieces of 16 bytes exchanged
// within a row so that eight rows' pieces of the same columns lie in different banks.
template <int kRowBytes>
__device__ __forceinline__ unsigned swizzled(unsigned offset) {
  return offset ^ ((offset >> 3) & (kRowBytes - 16U));
}

}  // namespace qat::kernels
