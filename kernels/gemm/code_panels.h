// Packing of int8 codes for the AVX2 integer GEMM. Internal to kernels/gemm; x86-64 only.
//
// A panel holds up to `kWidth` rows of an operand, widened to int16 and cut in pairs along the summed dimension:
//   panel[p][row][2] = codes 2p and 2p + 1 of that row
// so that one 32-bit lane of pmaddwd is one row's pair. Rows and a last odd code that do not exist are zeros.
#pragma once

#include <cstdint>

#include "kernels/common/view.h"

namespace qat::kernels {

constexpr std::int64_t pairs_of(std::int64_t depth) { return (depth + 1) / 2; }

// Rows [row, row + width) of m, codes [k, k + depth), k even; width a multiple of 8; panel: [pairs_of(depth), width,
// 2].
void pack_panel(const Matrix<const std::int8_t>& m, std::int64_t row, std::int64_t width, std::int64_t k,
                std::int64_t depth, std::int16_t* panel);

}  // namespace qat::kernels
