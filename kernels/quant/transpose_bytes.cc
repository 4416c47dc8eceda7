#include "kernels/quant/transpose_bytes.h"

#include "kernels/common/cpu_isa.h"

#if QAT_X86_SIMD
#include <emmintrin.h>
#endif

namespace qat::kernels {
namespace {

void transpose_plain(const std::int8_t* in, std::int64_t in_stride, std::int64_t rows, std::int64_t cols,
                     std::int8_t* out, std::int64_t out_stride) {
  for (std::int64_t c = 0; c < cols; ++c)
    for (std::int64_t r = 0; r < rows; ++r) out[c * out_stride + r] = in[r * in_stride + c];
}

#if QAT_X86_SIMD
// A 16 x 16 tile: interleaving rows i and i + 8 four times over turns the index (row, column) into (column, row).
void transpose_16x16(const std::int8_t* in, std::int64_t in_stride, std::int8_t* out, std::int64_t out_stride) {
  __m128i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i * in_stride));
  const auto interleave = [](const __m128i* from, __m128i* to) {
    for (int i = 0; i < 8; ++i) {
      to[2 * i] = _mm_unpacklo_epi8(from[i], from[i + 8]);
      to[2 * i + 1] = _mm_unpackhi_epi8(from[i], from[i + 8]);
    }
  };
  interleave(a, b);
  interleave(b, a);
  interleave(a, b);
  interleave(b, a);
  for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i * out_stride), a[i]);
}
#endif

}  // namespace

void transpose_bytes(const std::int8_t* in, std::int64_t in_stride, std::int64_t rows, std::int64_t cols,
                     std::int8_t* out, std::int64_t out_stride) {
  std::int64_t whole_rows = 0, whole_cols = 0;
#if QAT_X86_SIMD
  whole_rows = rows / 16 * 16;
  whole_cols = cols / 16 * 16;
  for (std::int64_t c = 0; c < whole_cols; c += 16)
    for (std::int64_t r = 0; r < whole_rows; r += 16)
      transpose_16x16(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
#endif
  transpose_plain(in + whole_cols, in_stride, whole_rows, cols - whole_cols, out + whole_cols * out_stride, out_stride);
  transpose_plain(in + whole_rows * in_stride, in_stride, rows - whole_rows, cols, out + whole_rows, out_stride);
}

}  // namespace qat::kernels
