// The CUDA half of row_pieces.h against the CPU's, bit for bit.
#include "kernels/quant/row_pieces.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::cuda_exec;
using test::DeviceBuffer;

TEST(RowPiecesCuda, EqualTheCpu) {
  for (const std::int64_t cols : {1, 5, 36, 768})
    for (const std::int64_t matrices : {1, 3, 130})
      for (const CodeBytes bytes : {CodeBytes::kOne, CodeBytes::kHalf})
        for (const std::int64_t from : {0, 2, 4, 8}) {
          SCOPED_TRACE(std::to_string(matrices) + " matrices of " + std::to_string(cols) + " columns, from " +
                       std::to_string(from));
          constexpr std::int64_t kRows = 37;
          std::vector<float> x = test::random_grid(matrices * kRows, cols, 5).values;
          x[x.size() / 2] = std::numeric_limits<float>::infinity();
          const DeviceBuffer<float> d_x(x);
          std::vector<RowPiece> pieces, d_pieces;
          std::int64_t code = 0;
          for (std::int64_t m = 0; m < matrices; ++m) {
            const std::int64_t elems = kRows * cols, first = std::min(from, elems - 1);
            RowPiece piece{.values = x.data() + m * elems + first,
                           .first = first,
                           .elems = elems - first - (m % 3 == 2 ? 1 : 0),
                           .cols = cols,
                           .row = m * kRows,
                           .code = code,
                           .bits = static_cast<int>(2 + m % (bytes == CodeBytes::kHalf ? 3 : 7))};
            code += (piece.elems + 3) / 4 * 4;
            pieces.push_back(piece);
            piece.values = d_x.data() + m * elems + first;
            d_pieces.push_back(piece);
          }
          std::vector<float> amax(static_cast<std::size_t>(matrices * kRows));
          std::vector<std::uint8_t> codes(static_cast<std::size_t>(bytes_of_codes(code, bytes)), 0x5A);
          const DeviceBuffer<float> d_amax(static_cast<std::int64_t>(amax.size()));
          const DeviceBuffer<std::uint8_t> d_codes(codes);
          row_piece_amax({}, pieces, amax);
          row_piece_amax(cuda_exec(), d_pieces, d_amax.span());
          EXPECT_TRUE(test::same_bits(d_amax.download(), amax));
          encode_row_pieces({}, pieces, amax, bytes, codes);
          encode_row_pieces(cuda_exec(), d_pieces, d_amax.span(), bytes, d_codes.span());
          EXPECT_EQ(d_codes.download(), codes);
          decode_row_pieces({}, pieces, amax, bytes, codes);
          decode_row_pieces(cuda_exec(), d_pieces, d_amax.span(), bytes, d_codes.span());
          EXPECT_TRUE(test::same_bits(d_x.download(), x));
        }
}

}  // namespace
}  // namespace qat::kernels
