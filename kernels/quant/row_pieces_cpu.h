// The CPU half of row_pieces.h: the specification that other devices are tested against. Arguments are checked by
// row_pieces.cc.
#pragma once

#include "kernels/quant/row_pieces.h"

namespace qat::kernels {

void row_piece_amax_cpu(const Exec& exec, std::span<const RowPiece> pieces, std::span<float> amax);
void encode_row_pieces_cpu(const Exec& exec, std::span<const RowPiece> pieces, std::span<const float> amax,
                           CodeBytes bytes, std::span<std::uint8_t> codes);
void decode_row_pieces_cpu(const Exec& exec, std::span<const RowPiece> pieces, std::span<const float> amax,
                           CodeBytes bytes, std::span<const std::uint8_t> codes);

}  // namespace qat::kernels
