// The CUDA half of row_pieces.h: the same bits as the CPU's. Arguments are checked by row_pieces.cc.
//
// Bytes that must move at 85M weights on two ranks: 170 MB for the maxima, 170 read and 42 written by the encoder, 42
// read and 170 written by the decoder: 0.2 ms at 3.0 TB/s.
#pragma once

#include "kernels/quant/row_pieces.h"

namespace qat::kernels {

void row_piece_amax_cuda(const Exec& exec, std::span<const RowPiece> pieces, std::span<float> amax);
void encode_row_pieces_cuda(const Exec& exec, std::span<const RowPiece> pieces, std::span<const float> amax,
                            CodeBytes bytes, std::span<std::uint8_t> codes);
void decode_row_pieces_cuda(const Exec& exec, std::span<const RowPiece> pieces, std::span<const float> amax,
                            CodeBytes bytes, std::span<const std::uint8_t> codes);

}  // namespace qat::kernels
