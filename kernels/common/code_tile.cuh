// Codes of whole rows on their way out as columns.
#pragma once

#include <cstdint>

namespace qat::kernels {

// Codes of 32 or 64 whole rows in shared memory, to be written as columns in runs of as many bytes.
// Rows are padded to 128 bytes, and the 16-row group g of a row exchanges pieces of 2048 / rows bytes within each 128
// (by xor with g), so that the lanes of a warp, which read four bytes of different groups, meet no bank twice.
struct CodeTile {
  unsigned char* bytes;
  int pitch;
  int log2_groups;  // of 16 rows: 1 or 2

  static constexpr int kMaxBytes = 220 * 1024;
  static constexpr int kMaxBytesOfTwo = 106 * 1024;  // of which a multiprocessor has room for two
  static int pitch_of(std::int64_t cols) { return static_cast<int>((cols + 127) / 128 * 128); }
  // 64 rows where two CTAs and their registers still fit a multiprocessor, and enough tiles are left to fill the chip.
  static int rows_for(std::int64_t rows, std::int64_t cols) {
    return 64 * pitch_of(cols) <= kMaxBytesOfTwo && rows >= 64 * 264 ? 64 : 32;
  }

  __device__ int offset(int row, int col) const {
    const int group = row >> 4;
    return row * pitch + (col ^ (group << (7 - log2_groups)));
  }
  __device__ void put(int row, int col, uint2 codes) const {
    *reinterpret_cast<uint2*>(bytes + offset(row, col)) = codes;
  }

  // out: [cols, rows], the tile is rows row0 .. row0 + tile_rows - 1 of the matrix. After a barrier; by the whole CTA.
  __device__ void write_transposed(std::int8_t* out, std::int64_t rows, std::int64_t row0, int tile_rows,
                                   int cols) const {
    const bool aligned = rows % 16 == 0 && reinterpret_cast<std::uintptr_t>(out) % 16 == 0;
    const int items = (cols / 4) << log2_groups;
    for (int item = static_cast<int>(threadIdx.x); item < items; item += static_cast<int>(blockDim.x)) {
      const int first = (item & ((1 << log2_groups) - 1)) * 16;
      const int col = (item >> log2_groups) * 4;
      if (first >= tile_rows) continue;
      unsigned columns[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        unsigned w[4];
#pragma unroll
        for (int j = 0; j < 4; ++j)
          w[j] = *reinterpret_cast<const unsigned*>(bytes + offset(first, col) + (4 * i + j) * pitch);
        const unsigned a = __byte_perm(w[0], w[1], 0x5140), b = __byte_perm(w[0], w[1], 0x7362);
        const unsigned c = __byte_perm(w[2], w[3], 0x5140), d = __byte_perm(w[2], w[3], 0x7362);
        columns[0][i] = __byte_perm(a, c, 0x5410);
        columns[1][i] = __byte_perm(a, c, 0x7632);
        columns[2][i] = __byte_perm(b, d, 0x5410);
        columns[3][i] = __byte_perm(b, d, 0x7632);
      }
      std::int8_t* to = out + col * rows + row0 + first;
#pragma unroll
      for (int j = 0; j < 4; ++j, to += rows) {
        if (aligned) {
          *reinterpret_cast<uint4*>(to) = make_uint4(columns[j][0], columns[j][1], columns[j][2], columns[j][3]);
        } else {
#pragma unroll
          for (int k = 0; k < 16; ++k)
            if (first + k < tile_rows) to[k] = static_cast<std::int8_t>(columns[j][k / 4] >> (8 * (k % 4)));
        }
      }
    }
  }
};

}  // namespace qat::kernels
