#include "kernels/quant/row_pieces_cpu.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/quant/row_coder.h"

namespace qat::kernels {
namespace {

// What of a row is in a piece.
struct Run {
  std::int64_t row;    // in `amax`
  std::int64_t begin;  // within the piece
  std::int64_t elems;
};

template <typename Body>
void for_runs(const Exec& exec, const RowPiece& piece, const Body& body) {
  exec.for_ranges(piece.end_row() - piece.first_row(), std::max<std::int64_t>(1, 16384 / piece.cols),
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t i = begin; i < end; ++i) {
                      const std::int64_t row = piece.first_row() + i;
                      const std::int64_t from = std::max(piece.first, row * piece.cols),
                                         to = std::min(piece.first + piece.elems, (row + 1) * piece.cols);
                      body(Run{.row = piece.row + row, .begin = from - piece.first, .elems = to - from});
                    }
                  });
}

struct Scale {
  float scale, inverse, q_max;
};
Scale scale_of(float amax, int bits) {
  const auto q_max = static_cast<float>(BitWidth(bits).q_max());
  const float scale = scale_of_abs_max(std::bit_cast<std::int32_t>(amax), kWeightAmaxFloor, q_max);
  return {scale, 1.0F / scale, q_max};
}

int signed_byte(std::uint8_t byte) { return byte < 128 ? byte : byte - 256; }
int low_half(std::uint8_t byte) { return signed_byte(static_cast<std::uint8_t>(byte << 4U)) >> 4; }
int high_half(std::uint8_t byte) { return signed_byte(byte) >> 4; }

}  // namespace

void row_piece_amax_cpu(const Exec& exec, std::span<const RowPiece> pieces, std::span<float> amax) {
  std::fill(amax.begin(), amax.end(), 0.0F);
  const CpuIsa isa = best_cpu_isa();
  for (const RowPiece& piece : pieces)
    for_runs(exec, piece, [&](const Run& run) {
      const std::int32_t bits = abs_max_bits({piece.values + run.begin, run.elems, 1.0F, nullptr}, isa);
      float& most = amax[static_cast<std::size_t>(run.row)];
      most = std::bit_cast<float>(std::max(std::bit_cast<std::int32_t>(most), bits));
    });
}

void encode_row_pieces_cpu(const Exec& exec, std::span<const RowPiece> pieces, std::span<const float> amax,
                           CodeBytes bytes, std::span<std::uint8_t> codes) {
  const CpuIsa isa = best_cpu_isa();
  std::vector<std::int8_t> whole;
  for (const RowPiece& piece : pieces) {
    const bool half = bytes == CodeBytes::kHalf;
    if (half) whole.resize(static_cast<std::size_t>(piece.elems));
    std::int8_t* const to = half ? whole.data() : reinterpret_cast<std::int8_t*>(codes.data() + piece.code);
    for_runs(exec, piece, [&](const Run& run) {
      const Scale scale = scale_of(amax[static_cast<std::size_t>(run.row)], piece.bits);
      code_row({piece.values + run.begin, run.elems, 1.0F, nullptr},
               {.inverse = &scale.inverse, .per_column = false, .uniform = nullptr, .q_max = scale.q_max},
               to + run.begin, isa);
    });
    if (!half) continue;
    std::uint8_t* const packed = codes.data() + piece.code / 2;
    for (std::int64_t i = 0; i < piece.elems; i += 2) {
      const auto code_at = [&](std::int64_t at) {
        return at < piece.elems ? static_cast<std::uint8_t>(whole[static_cast<std::size_t>(at)]) & 0xFU : 0U;
      };
      packed[i / 2] = static_cast<std::uint8_t>(code_at(i) | (code_at(i + 1) << 4U));
    }
  }
}

void decode_row_pieces_cpu(const Exec& exec, std::span<const RowPiece> pieces, std::span<const float> amax,
                           CodeBytes bytes, std::span<const std::uint8_t> codes) {
  for (const RowPiece& piece : pieces)
    for_runs(exec, piece, [&](const Run& run) {
      const float most = amax[static_cast<std::size_t>(run.row)];
      const Scale scale = scale_of(most, piece.bits);
      for (std::int64_t i = run.begin; i < run.begin + run.elems; ++i) {
        int code = 0;
        if (bytes == CodeBytes::kHalf) {
          const std::uint8_t byte = codes[static_cast<std::size_t>((piece.code + i) / 2)];
          code = i % 2 == 0 ? low_half(byte) : high_half(byte);
        } else {
          code = signed_byte(codes[static_cast<std::size_t>(piece.code + i)]);
        }
        const auto exact = static_cast<float>(code);
        piece.values[i] = std::isnan(scale.scale)           ? std::numeric_limits<float>::quiet_NaN()
                          : std::fabs(exact) == scale.q_max ? std::copysign(most, exact)
                                                            : exact * scale.scale;
      }
    });
}

}  // namespace qat::kernels
