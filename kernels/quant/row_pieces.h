// Weights that are on their way between ranks as codes: a rank has pieces of matrices, which begin and end anywhere in
// a row, and the ranks agree on every row's largest magnitude before each encodes what is its own.
//
// What is decoded is not the weights, but encodes to the same codes and the same scales, bit for bit (encode.h): an
// element of the largest code becomes plus or minus the row's largest magnitude, and every other one k * s. So whoever
// multiplies with codes may read such values for the weights, and cannot tell.
//
//   s = max(amax, kWeightAmaxFloor) / q_max      k = clamp(rint(x * (1 / s)))      x' = |k| == q_max ? +-amax : k * s
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"
#include "kernels/quant/encode.h"

namespace qat::kernels {

// Elements [first, first + elems) of a dense matrix of `cols` columns.
struct RowPiece {
  float* values = nullptr;  // of its first element
  std::int64_t first = 0, elems = 0, cols = 1;
  std::int64_t row = 0;   // where the matrix's row 0 is in `amax`
  std::int64_t code = 0;  // where its first element is among the codes; even, where two share a byte
  int bits = 8;           // 2..8; 2..4 where two share a byte

  std::int64_t first_row() const { return first / cols; }
  std::int64_t end_row() const { return elems == 0 ? first_row() : (first + elems - 1) / cols + 1; }
};

enum class CodeBytes : std::uint8_t {
  kOne,   // a code a byte
  kHalf,  // two: the first in the low half
};
constexpr std::int64_t bytes_of_codes(std::int64_t codes, CodeBytes bytes) {
  return bytes == CodeBytes::kOne ? codes : (codes + 1) / 2;
}

// amax: for every row of the matrices, the largest magnitude in the pieces, 0 where they have none of it; infinite or
// NaN if one of them is. Its bits order as integers, with NaN on top.
void row_piece_amax(const Exec& exec, std::span<const RowPiece> pieces, std::span<float> amax);

// The codes of all pieces; of a row whose amax is not finite 0. What lies between the pieces' codes is left alone.
void encode_row_pieces(const Exec& exec, std::span<const RowPiece> pieces, std::span<const float> amax, CodeBytes bytes,
                       std::span<std::uint8_t> codes);

// The pieces' values from their codes; of a row whose amax is not finite NaN.
void decode_row_pieces(const Exec& exec, std::span<const RowPiece> pieces, std::span<const float> amax, CodeBytes bytes,
                       std::span<const std::uint8_t> codes);

}  // namespace qat::kernels
