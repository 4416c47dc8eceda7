// The passes that encode.h and encode_gradient.h are made of on a GPU. All pointers are device memory. Internal to
// kernels/quant, and to kernels/gemm where a product codes on the way.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/quant/encode_gradient.h"

namespace qat::kernels {

struct CodePass {
  GradientColumns x;  // one dtype
  Factors factors;
  EncodeOptions options;
  CodesOut out;
};

// Codes of every element with the scale of its row ([1] or [rows]), or with the reciprocal of its column's.
void code_by_row_cuda(const Exec& exec, const CodePass& pass, std::span<const float> scales);
void code_by_column_cuda(const Exec& exec, const CodePass& pass, const float* inverses);

// What one read of a matrix says about its columns; each may be empty.
struct ColumnStatistics {
  std::span<float> sums;      // of x
  std::span<float> scales;    // of (x * row_factors) * col_factors
  float* inverses = nullptr;  // 1 / scales; wanted if scales are
  float amax_floor = 1.0F;
  float q_max = 1.0F;
};
void column_statistics_cuda(const Exec& exec, const GradientColumns& x, const Factors& factors,
                            const ColumnStatistics& out);

// Its last step. partials: [strips, cols], added in order; max_bits: [cols], the bits of each column's largest
// magnitude.
void finish_columns_cuda(const Exec& exec, std::int64_t cols, const float* partials, std::int64_t strips,
                         const std::uint32_t* max_bits, const ColumnStatistics& out);

// Row codes, and what ColumnStatistics asks for of g * row_factors (sums: of g), in one read; with `gelu`, of g = dy *
// gelu'(x), which goes there. `out.rows` may be empty.
struct GradientRows {
  GradientColumns g;  // dy, if there is a `gelu`
  ConstFloatMatrix x;
  FloatMatrix gelu;
  const GradientEncoding& encoding;
  const GradientCodes& out;
};
bool takes_gradient_rows(const GradientColumns& g);
void gradient_rows_cuda(const Exec& exec, const GradientRows& job, const ColumnStatistics& statistics);

// Row codes of a dense matrix of 8, 16, 32 or 64 columns, and the maxima of its columns (encode_narrow_cuda.cu).
struct NarrowRows {
  const void* g = nullptr;
  std::int64_t rows = 0;
  const float* row_factors = nullptr;  // null: ones
  const float* col_factors = nullptr;
  float floor = 1.0F, q_max = 1.0F;
  RoundingKeys keys;
  std::int8_t* codes = nullptr;
  float* row_scales = nullptr;
  std::uint32_t* max_bits = nullptr;  // [cols], zeroed, of g * row_factors; null: not wanted
};
bool takes_narrow_rows(std::int64_t cols) noexcept;
void code_narrow_rows_cuda(const Exec& exec, const NarrowRows& a, std::int64_t cols, DType dtype, bool stochastic);

// Rows of eight-element groups on 16-byte boundaries: what the vector paths need.
bool has_vector_rows(const GradientColumns& x);

inline std::int64_t rows_of(const GradientColumns& x) { return x.parts[0].rows; }
inline std::int64_t cols_of(const GradientColumns& x) {
  std::int64_t cols = 0;
  for (int p = 0; p < x.count; ++p) cols += x.parts[static_cast<std::size_t>(p)].cols;
  return cols;
}
inline GradientColumns one_part(const ConstFloatMatrix& x) { return {{x, {}, {}}, 1}; }

inline bool is_aligned(const void* pointer, std::uintptr_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

}  // namespace qat::kernels
