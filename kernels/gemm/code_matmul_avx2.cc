// AVX2 integer GEMM, after the blocking of BLIS (Van Zee & van de Geijn, TOMS 41(3), 2015).
//
//   sums[m,n] = sum_k a[m,k] b[n,k];   a: [M, K], b: [N, K] in int8, handed on by blocks (code_matmul_cpu.h)
//
// pmaddwd multiplies 16 pairs of int16 and adds neighbours: 16 products an instruction, and int32 sums that are exact
// for any codes. (pmaddubsw would do 32, but saturates: 2 * 255 * 127 does not fit int16.)
//
//   b is packed once, in panels of 16 columns of y, and shared by all rows and threads;
//   a is packed by each work item, kItemRows rows at a time, in panels of 6 rows;
//   a tile of 6 x 16 sums lives in 12 registers while it runs through kDepth codes.
#include <algorithm>
#include <cstring>

#include "kernels/common/scratch.h"
#include "kernels/gemm/code_matmul_cpu.h"
#include "kernels/gemm/code_panels.h"

#if QAT_X86_SIMD
#include <immintrin.h>

namespace qat::kernels {
namespace {

constexpr std::int64_t kTileRows = 6;
constexpr std::int64_t kTileCols = kSumPiece;
constexpr std::int64_t kTileElems = kTileRows * kTileCols;
constexpr std::int64_t kPanelRows = 8;             // a panel of a is padded from 6 rows to 8: whole vectors
constexpr std::int64_t kDepth = 512;               // a panel of b is 16 KiB then, half of a first-level cache
constexpr std::int64_t kItemRows = 8 * kTileRows;  // packed a of one item: 64 KiB, in the second-level cache
constexpr std::int64_t kItemCols = 512;
constexpr std::int64_t kPackedBytes = 8 << 20;  // b is packed in pieces of about this size

// sums[6][16] (+)= panel of a times panel of b.
QAT_TARGET_AVX2 void multiply_tile(std::int64_t pairs, const std::int16_t* a, const std::int16_t* b, bool add,
                                   std::int32_t* sums) {
  __m256i sum[kTileRows][2];
#pragma GCC unroll 6
  for (int i = 0; i < kTileRows; ++i) {
    sum[i][0] = add ? _mm256_load_si256(reinterpret_cast<const __m256i*>(sums + 16 * i)) : _mm256_setzero_si256();
    sum[i][1] = add ? _mm256_load_si256(reinterpret_cast<const __m256i*>(sums + 16 * i + 8)) : _mm256_setzero_si256();
  }
  for (std::int64_t p = 0; p < pairs; ++p) {
    const __m256i b0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(b));
    const __m256i b1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(b + 16));
#pragma GCC unroll 6
    for (int i = 0; i < kTileRows; ++i) {
      std::int32_t pair;
      std::memcpy(&pair, a + 2 * i, sizeof(pair));
      const __m256i ai = _mm256_set1_epi32(pair);
      sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(ai, b0));
      sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(ai, b1));
    }
    a += 2 * kPanelRows;
    b += 2 * kTileCols;
  }
#pragma GCC unroll 6
  for (int i = 0; i < kTileRows; ++i) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums + 16 * i), sum[i][0]);
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums + 16 * i + 8), sum[i][1]);
  }
}

// Columns [col, col + cols) of y: the rows of b that are packed together.
struct PackedColumns {
  const std::int16_t* panels;  // [ceil(cols / 16)][pairs_of(depth), 16, 2]
  std::int64_t col;
  std::int64_t cols;
};

constexpr std::int64_t ceil_div(std::int64_t n, std::int64_t d) { return (n + d - 1) / d; }

// One work item: up to kItemRows rows and kItemCols columns of y.
class ItemWorker {
 public:
  ItemWorker(const Matrix<const std::int8_t>& a, const PackedColumns& b, const CodeMatmulTarget& target)
      : a_(a),
        b_(b),
        target_(target),
        panel_elems_(pairs_of(std::min(kDepth, a.cols)) * 2 * kPanelRows),
        packed_a_(kItemRows / kTileRows * panel_elems_),
        // One tile is enough when no sum is interrupted.
        sums_(a.cols <= kDepth ? kTileElems : kItemRows / kTileRows * (kItemCols / kTileCols) * kTileElems) {}

  // begin: row of y; first: column within the packed columns, a multiple of 16.
  void run(std::int64_t begin, std::int64_t first) {
    const std::int64_t row_panels = ceil_div(std::min(kItemRows, a_.rows - begin), kTileRows);
    const std::int64_t col_panels = ceil_div(std::min(kItemCols, b_.cols - first), kTileCols);
    const std::int64_t depth = a_.cols, b_panel = pairs_of(depth) * 2 * kTileCols;
    std::int64_t k = 0;
    do {  // once even for an empty sum, which is zero
      const std::int64_t count = std::min(kDepth, depth - k);
      for (std::int64_t i = 0; i < row_panels; ++i) pack_row_panel(begin + i * kTileRows, k, count, i);
      for (std::int64_t j = 0; j < col_panels; ++j) {
        const std::int16_t* b = b_.panels + (first / kTileCols + j) * b_panel + k * kTileCols;
        for (std::int64_t i = 0; i < row_panels; ++i) {
          std::int32_t* tile = sums_.get() + (depth <= kDepth ? 0 : (j * row_panels + i) * kTileElems);
          multiply_tile(pairs_of(count), packed_a_.get() + i * panel_elems_, b, /*add=*/k > 0, tile);
          if (k + count == depth) finish_tile(tile, begin + i * kTileRows, first + j * kTileCols);
        }
      }
      k += count;
    } while (k < depth);
  }

 private:
  void pack_row_panel(std::int64_t row, std::int64_t k, std::int64_t count, std::int64_t index) {
    // Rows 6 and 7 of a panel belong to the next one; the tile never reads them.
    pack_panel(a_, row, kPanelRows, k, count, packed_a_.get() + index * panel_elems_);
  }

  void finish_tile(const std::int32_t* tile, std::int64_t row, std::int64_t col) const {
    const SumBlock block{row, b_.col + col, std::min(kTileRows, a_.rows - row), std::min(kTileCols, b_.cols - col)};
    finish_sums(target_, block, tile, CpuIsa::kAvx2);
  }

  const Matrix<const std::int8_t>& a_;
  const PackedColumns& b_;
  const CodeMatmulTarget& target_;
  const std::int64_t panel_elems_;
  Scratch<std::int16_t> packed_a_;
  Scratch<std::int32_t> sums_;
};

}  // namespace

void code_matmul_avx2(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                      const CodeMatmulTarget& target) {
  const std::int64_t panel_elems = pairs_of(a.cols) * 2 * kTileCols;
  const std::int64_t panel_bytes = std::max<std::int64_t>(1, panel_elems * 2);
  const std::int64_t panels_at_once =
      std::clamp<std::int64_t>(kPackedBytes / panel_bytes, 1, ceil_div(b.rows, kTileCols));
  const Scratch<std::int16_t> packed(panels_at_once * panel_elems);
  for (std::int64_t col = 0; col < b.rows; col += panels_at_once * kTileCols) {
    const PackedColumns columns{packed.get(), col, std::min(panels_at_once * kTileCols, b.rows - col)};
    // A grain of about 64 KiB of codes: less is not worth handing over.
    exec.for_ranges(ceil_div(columns.cols, kTileCols), std::max<std::int64_t>(1, (1 << 17) / panel_bytes),
                    [&](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t p = begin; p < end; ++p)
                        pack_panel(b, col + p * kTileCols, kTileCols, /*k=*/0, a.cols, packed.get() + p * panel_elems);
                    });
    const std::int64_t row_items = ceil_div(a.rows, kItemRows), col_items = ceil_div(columns.cols, kItemCols);
    exec.for_ranges(row_items * col_items, /*grain=*/1, [&](std::int64_t begin, std::int64_t end) {
      ItemWorker worker(a, columns, target);
      for (std::int64_t item = begin; item < end; ++item)
        worker.run(item / col_items * kItemRows, item % col_items * kItemCols);
    });
  }
}

}  // namespace qat::kernels
#endif
