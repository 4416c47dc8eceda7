#include <algorithm>

#include "kernels/common/device_scratch.h"
#include "kernels/common/float_vectors.cuh"
#include "kernels/common/shape_text.h"
#include "kernels/quant/code_passes_cuda.h"
#include "kernels/quant/encode.h"
#include "kernels/quant/encode_gradient_cuda.h"
#include "kernels/quant/gelu_slope.cuh"
#include "kernels/quant/side_by_side.cuh"

namespace qat::kernels {
namespace {

constexpr std::int64_t kTargetBlocks = 132 * 16;

// dy * gelu'(x) of any shape and alignment.
template <typename T>
__global__ void __launch_bounds__(256) gelu_gradient_kernel(const T* dy, const T* x, T* g, std::int64_t n) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    g[i] = from_float<T>(to_float(dy[i]) * slope_of_gelu(to_float(x[i])));
}

template <typename T>
void gelu_gradient(const Exec& exec, const ConstFloatMatrix& dy, const ConstFloatMatrix& x, const FloatMatrix& g) {
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((g.size() + 255) / 256, kTargetBlocks));
  gelu_gradient_kernel<T><<<blocks, 256, 0, cuda_stream(exec)>>>(
      static_cast<const T*>(dy.data), static_cast<const T*>(x.data), static_cast<T*>(g.data), g.size());
  QAT_CUDA_CHECK(cudaGetLastError());
}

// The parts side by side, an element a thread: for shapes that the row pass does not take.
template <typename T>
__global__ void __launch_bounds__(256)
    join_kernel(const SideBySide parts, T* joined, std::int64_t rows, std::int64_t cols) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * cols; i += step)
    joined[i] = *Column<T>(parts, i % cols).row(i / cols);
}

template <typename T>
void join(const Exec& exec, const GradientColumns& g, void* joined) {
  const std::int64_t rows = rows_of(g), cols = cols_of(g);
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((rows * cols + 255) / 256, kTargetBlocks));
  join_kernel<T><<<blocks, 256, 0, cuda_stream(exec)>>>(side_by_side(g), static_cast<T*>(joined), rows, cols);
  QAT_CUDA_CHECK(cudaGetLastError());
}

ColumnStatistics statistics_for(const GradientEncoding& encoding, const GradientCodes& out, float* inverses) {
  ColumnStatistics statistics;
  statistics.sums = out.column_sums;
  if (out.col_scales.empty()) return statistics;
  statistics.scales = out.col_scales;
  statistics.inverses = inverses;
  statistics.amax_floor = encoding.col_options.amax_floor;
  statistics.q_max = static_cast<float>(encoding.col_options.width.q_max());
  return statistics;
}

// Any shape, from passes that do one thing each.
void encode_by_parts(const Exec& exec, const GradientColumns& g, const GradientEncoding& encoding,
                     const GradientCodes& out, float* inverses) {
  const ColumnStatistics statistics = statistics_for(encoding, out, inverses);
  if (!statistics.sums.empty() || !statistics.scales.empty())
    column_statistics_cuda(exec, g, {encoding.row_factors, {}}, statistics);
  if (out.rows.empty()) return;
  const std::int64_t rows = rows_of(g), cols = cols_of(g);
  const ConstFloatMatrix& part = g.parts[0];
  const Factors factors{{}, encoding.col_factors};
  if (g.count == 1 && (part.is_dense() || rows <= 1))
    return encode_scaled_rows(exec, part, factors, encoding.row_options, {out.rows, {}}, out.row_scales);
  const bool bf16 = part.dtype == DType::kBFloat16;
  const DeviceScratch<std::uint8_t> joined(exec, rows * cols * (bf16 ? 2 : 4));
  bf16 ? join<__nv_bfloat16>(exec, g, joined.get()) : join<float>(exec, g, joined.get());
  encode_scaled_rows(exec, {joined.get(), rows, cols, cols, part.dtype}, factors, encoding.row_options, {out.rows, {}},
                     out.row_scales);
}

// The first read of an adapter's hidden gradient.
void narrow_pass(const Exec& exec, const ConstFloatMatrix& g, const GradientEncoding& encoding,
                 const GradientCodes& out, float* inverses) {
  const ColumnStatistics statistics = statistics_for(encoding, out, inverses);
  const bool with_columns = !statistics.scales.empty();
  const DeviceScratch<std::uint32_t> max_bits(exec, with_columns ? g.cols : 0);
  if (with_columns)
    QAT_CUDA_CHECK(cudaMemsetAsync(max_bits.get(), 0, static_cast<std::size_t>(g.cols) * sizeof(std::uint32_t),
                                   cuda_stream(exec)));
  const EncodeOptions& options = encoding.row_options;
  const NarrowRows rows{.g = g.data,
                        .rows = g.rows,
                        .row_factors = encoding.row_factors.empty() ? nullptr : encoding.row_factors.data(),
                        .col_factors = encoding.col_factors.empty() ? nullptr : encoding.col_factors.data(),
                        .floor = options.amax_floor,
                        .q_max = static_cast<float>(options.width.q_max()),
                        .keys = rounding_keys(options.key),
                        .codes = out.rows.data,
                        .row_scales = out.row_scales.data(),
                        .max_bits = max_bits.get()};
  code_narrow_rows_cuda(exec, rows, g.cols, g.dtype, options.rounding == Rounding::kStochastic);
  if (with_columns) finish_columns_cuda(exec, g.cols, nullptr, 0, max_bits.get(), statistics);
}

bool takes_row_pass(const GradientColumns& g, const GradientCodes& out) {
  return takes_gradient_rows(g) && is_aligned(out.rows.data, 8);
}

// The second read.
void code_columns(const Exec& exec, const GradientColumns& g, const GradientEncoding& encoding,
                  const GradientCodes& out, const float* inverses) {
  if (out.cols_transposed.empty()) return;
  code_by_column_cuda(exec, {g, {encoding.row_factors, {}}, encoding.col_options, {{}, out.cols_transposed}}, inverses);
}

}  // namespace

void encode_gradient_cuda(const Exec& exec, const GradientColumns& g, const GradientEncoding& encoding,
                          const GradientCodes& out) {
  if (cols_of(g) == 0) return;
  const DeviceScratch<float> inverses(exec, length(out.col_scales));
  const bool narrow = g.count == 1 && g.parts[0].is_dense() && takes_narrow_rows(cols_of(g)) && out.column_sums.empty();
  if (narrow && !out.rows.empty() && takes_row_pass(g, out))
    narrow_pass(exec, g.parts[0], encoding, out, inverses.get());
  else if (!out.rows.empty() && takes_row_pass(g, out))
    gradient_rows_cuda(exec, {g, {}, {}, encoding, out}, statistics_for(encoding, out, inverses.get()));
  else
    encode_by_parts(exec, g, encoding, out, inverses.get());
  code_columns(exec, g, encoding, out, inverses.get());
}

void encode_gelu_gradient_cuda(const Exec& exec, ConstFloatMatrix dy, ConstFloatMatrix x, FloatMatrix g,
                               const GradientEncoding& encoding, const GradientCodes& out) {
  const GradientColumns product = one_part(g), from = one_part(dy);
  if (g.cols == 0) return;
  const DeviceScratch<float> inverses(exec, length(out.col_scales));
  if (takes_row_pass(product, out) && has_vector_rows(from) && has_vector_rows(one_part(x))) {
    gradient_rows_cuda(exec, {from, x, g, encoding, out}, statistics_for(encoding, out, inverses.get()));
  } else {
    if (g.size() > 0)
      g.dtype == DType::kBFloat16 ? gelu_gradient<__nv_bfloat16>(exec, dy, x, g) : gelu_gradient<float>(exec, dy, x, g);
    encode_by_parts(exec, product, encoding, out, inverses.get());
  }
  code_columns(exec, product, encoding, out, inverses.get());
}

void column_sums_cuda(const Exec& exec, const GradientColumns& g, std::span<float> sums) {
  ColumnStatistics statistics;
  statistics.sums = sums;
  if (!sums.empty()) column_statistics_cuda(exec, g, {}, statistics);
}

}  // namespace qat::kernels
