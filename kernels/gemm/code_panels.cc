#include "kernels/gemm/code_panels.h"

#include <algorithm>
#include <cstring>

#include "kernels/common/cpu_isa.h"

#if QAT_X86_SIMD
#include <immintrin.h>

namespace qat::kernels {
namespace {

constexpr std::int64_t kRows = 8;
constexpr std::int64_t kCodes = 16;  // eight pairs

// Eight rows of eight pairs become eight pairs of eight rows. rows[i] may be any readable 16 codes.
QAT_TARGET_AVX2 void pack_8x8_pairs(const std::int8_t* const rows[kRows], std::int64_t pair_stride, std::int64_t pairs,
                                    std::int16_t* out) {
  __m128i a[kRows], b[kRows];
  for (int i = 0; i < kRows; ++i) a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i]));
  // As in a perfect shuffle of 64 cards, interleaving units i and i + 4 three times transposes 8 x 8 units.
  const auto interleave = [](const __m128i* from, __m128i* to) QAT_TARGET_AVX2 {
    for (int i = 0; i < 4; ++i) {
      to[2 * i] = _mm_unpacklo_epi16(from[i], from[i + 4]);
      to[2 * i + 1] = _mm_unpackhi_epi16(from[i], from[i + 4]);
    }
  };
  interleave(a, b);
  interleave(b, a);
  interleave(a, b);
  for (std::int64_t p = 0; p < pairs; ++p)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + p * pair_stride), _mm256_cvtepi8_epi16(b[p]));
}

}  // namespace

void pack_panel(const Matrix<const std::int8_t>& m, std::int64_t row, std::int64_t width, std::int64_t k,
                std::int64_t depth, std::int16_t* panel) {
  alignas(16) std::int8_t edge[kRows][kCodes];
  const std::int8_t* rows[kRows];
  for (std::int64_t c = 0; c < depth; c += kCodes) {
    const std::int64_t codes = std::min(kCodes, depth - c);
    for (std::int64_t group = 0; group < width; group += kRows) {
      for (std::int64_t i = 0; i < kRows; ++i) {
        const std::int64_t r = row + group + i;
        const bool exists = r < m.rows;
        if (exists && codes == kCodes) {
          rows[i] = m.row(r) + k + c;
          continue;
        }
        std::memset(edge[i], 0, kCodes);
        if (exists) std::memcpy(edge[i], m.row(r) + k + c, static_cast<std::size_t>(codes));
        rows[i] = edge[i];
      }
      pack_8x8_pairs(rows, /*pair_stride=*/2 * width, pairs_of(codes), panel + c * width + 2 * group);
    }
  }
}

}  // namespace qat::kernels
#endif
