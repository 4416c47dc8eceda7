#include "kernels/quant/row_pieces.h"

#include <limits>
#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/quant/row_pieces_cpu.h"
#include "kernels/quant/row_pieces_cuda.h"

namespace qat::kernels {
namespace {

void check(std::span<const RowPiece> pieces, std::int64_t rows) {
  for (const RowPiece& piece : pieces) {
    QAT_CHECK(piece.first >= 0 && piece.elems >= 0 && piece.cols >= 1,
              std::to_string(piece.elems) + " elements from " + std::to_string(piece.first) + " on, in rows of " +
                  std::to_string(piece.cols));
    QAT_CHECK(piece.first + piece.elems <= std::numeric_limits<std::int32_t>::max(), "a matrix of 2^31 elements");
    QAT_CHECK(piece.row >= 0 && piece.row + piece.end_row() <= rows,
              "rows up to " + std::to_string(piece.row + piece.end_row()) + " of " + std::to_string(rows));
  }
}

void check_codes(std::span<const RowPiece> pieces, CodeBytes bytes, std::size_t room) {
  const bool half = bytes == CodeBytes::kHalf;
  for (const RowPiece& piece : pieces) {
    QAT_CHECK(BitWidth::kMinUsual <= piece.bits && piece.bits <= (half ? 4 : 8),
              std::to_string(piece.bits) + " bits in " + (half ? "half a byte" : "a byte"));
    QAT_CHECK(piece.code >= 0 && (!half || piece.code % 2 == 0) &&
                  bytes_of_codes(piece.code + piece.elems, bytes) <= static_cast<std::int64_t>(room),
              "codes from " + std::to_string(piece.code) + " on in " + std::to_string(room) + " bytes");
  }
}

}  // namespace

void row_piece_amax(const Exec& exec, std::span<const RowPiece> pieces, std::span<float> amax) {
  check(pieces, static_cast<std::int64_t>(amax.size()));
  if (amax.empty()) return;
  dispatch(
      exec, "row_piece_amax", [&] { row_piece_amax_cpu(exec, pieces, amax); },
      [&] { row_piece_amax_cuda(exec, pieces, amax); });
}

void encode_row_pieces(const Exec& exec, std::span<const RowPiece> pieces, std::span<const float> amax, CodeBytes bytes,
                       std::span<std::uint8_t> codes) {
  check(pieces, static_cast<std::int64_t>(amax.size()));
  check_codes(pieces, bytes, codes.size());
  dispatch(
      exec, "encode_row_pieces", [&] { encode_row_pieces_cpu(exec, pieces, amax, bytes, codes); },
      [&] { encode_row_pieces_cuda(exec, pieces, amax, bytes, codes); });
}

void decode_row_pieces(const Exec& exec, std::span<const RowPiece> pieces, std::span<const float> amax, CodeBytes bytes,
                       std::span<const std::uint8_t> codes) {
  check(pieces, static_cast<std::int64_t>(amax.size()));
  check_codes(pieces, bytes, codes.size());
  dispatch(
      exec, "decode_row_pieces", [&] { decode_row_pieces_cpu(exec, pieces, amax, bytes, codes); },
      [&] { decode_row_pieces_cuda(exec, pieces, amax, bytes, codes); });
}

}  // namespace qat::kernels
