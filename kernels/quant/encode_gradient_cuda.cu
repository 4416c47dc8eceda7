#include <algorithm>

#include "kernels/common/device_scratch.h"
#include "kernels/quant/encode.h"
#include "kernels/quant/encode_gradient_cuda.h"
#include "kernels/quant/quant_device.cuh"

namespace qat::kernels {
namespace {

constexpr int kMaxThreads = 800;     // 6,400 columns
constexpr int kNarrowThreads = 384;  // 3,072 columns: two blocks fit, with more registers a thread
constexpr int kMaxWarps = 32;
constexpr std::int64_t kMaxStripRows = 1024;    // whose factors lie in shared memory
constexpr std::int64_t kMultiprocessors = 132;  // a constant, not the device's: it decides the order of the column sums

struct RowPassArgs {
  SideBySide g;  // dy, if the slope of GELU is still to be multiplied in
  const void* x;
  void* gelu_gradient;
  std::int64_t rows, cols, strip_rows;
  const float* row_factors;  // null: ones
  const float* col_factors;
  float row_floor, row_q_max;
  RngKey row_key;
  std::int8_t* codes;  // null: no row codes
  float* row_scales;
  std::uint32_t* max_bits;  // [cols], of the columns of g * row_factors; null: not wanted
  float* partials;          // [strips, cols], column sums; null: not wanted
};

// gelu'(x) with s = 1/2 (1 + tanh(u)) = 1 / (1 + exp(-2 u)) and 1 - s = exp(-2 u) s, which do not cancel:
//   gelu'(x) = s + 2 x s (1 - s) u',  u = sqrt(2/pi) (x + 0.044715 x^3)
__device__ float gelu_slope(float x) {
  constexpr float kRoot = 0.7978845608F, kCubic = 0.044715F;
  const float square = x * x;
  const float u = kRoot * x * __fmaf_rn(kCubic, square, 1.0F);
  const float e = __expf(fminf(-2.0F * u, 80.0F));  // finite, or 1 - s would be infinity times zero
  const float s = __fdividef(1.0F, 1.0F + e);
  const float slope = kRoot * __fmaf_rn(3.0F * kCubic, square, 1.0F);
  // Where s is 0 or 1 to the last bit the second term is nothing; x^2 may have overflowed there. A NaN fails the test.
  return fabsf(x) > 20.0F ? s : __fmaf_rn(2.0F * x * slope, e * s * s, s);
}

// Rows that a thread has in flight: as many as fit the registers.
template <typename T, bool kGelu, bool kWide>
constexpr int rows_in_flight() {
  if (sizeof(T) == 2) return kGelu ? (kWide ? 1 : 2) : (kWide ? 2 : 3);
  return kGelu || kWide ? 1 : 2;
}

// A thread owns eight columns and a block all of them, over a strip of rows. It reads kRows rows ahead, so that memory
// is busy while the block agrees on the row maxima; its columns' maxima and sums stay in registers to the strip's end.
template <typename T, bool kGelu, bool kStochastic, bool kWide>
__global__ void __launch_bounds__(kWide ? kMaxThreads : kNarrowThreads, kWide ? 1 : 2)
    gradient_rows_kernel(const RowPassArgs a) {
  constexpr int kRows = rows_in_flight<T, kGelu, kWide>();
  __shared__ float factors[kMaxStripRows + kRows];
  __shared__ std::uint32_t warp_max[2][kRows][kMaxWarps];
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t first = blockIdx.x * a.strip_rows;
  const int rows = static_cast<int>(first + a.strip_rows < a.rows ? a.strip_rows : a.rows - first);
  const std::int64_t c = static_cast<std::int64_t>(threadIdx.x) * kGroup;
  const bool active = c < a.cols;

  for (int i = static_cast<int>(threadIdx.x); i < rows + kRows; i += static_cast<int>(blockDim.x))
    factors[i] = i >= rows ? 0.0F : a.row_factors != nullptr ? a.row_factors[first + i] : 1.0F;
  float col_factor[kGroup], sum[kGroup], col_max[kGroup];
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    col_factor[j] = active && a.col_factors != nullptr ? a.col_factors[c + j] : 1.0F;
    sum[j] = 0.0F;
    col_max[j] = 0.0F;
  }
  __syncthreads();

  const Column<T> column(a.g, active ? c : 0);
  const T* from = column.row(first);
  std::int64_t at = first * a.cols + c;  // of the dense matrices, in elements
  Raw8<T> next[kRows], next_x[kGelu ? kRows : 1];
  const auto fetch = [&](int begin) {  // rows begin .. begin + kRows - 1 of the strip, from `from` on
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (active && begin + i < rows) {
        next[i] = load8(from + i * column.stride);
        if constexpr (kGelu) next_x[i] = load8(static_cast<const T*>(a.x) + at + (begin + i) * a.cols);
      } else {
        next[i] = Raw8<T>{};
        if constexpr (kGelu) next_x[i] = Raw8<T>{};
      }
    }
    from += kRows * column.stride;
  };
  fetch(0);
  int buffer = 0;
  for (int r = 0; r < rows; r += kRows, buffer ^= 1) {
    Raw8<T> g[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      g[i] = next[i];
      if constexpr (kGelu) {
        float product[kGroup];
#pragma unroll
        for (int j = 0; j < kGroup; ++j) product[j] = next[i].at(j) * gelu_slope(next_x[i].at(j));
        g[i] = round8<T>(product);
        if (active && r + i < rows) store8(g[i], static_cast<T*>(a.gelu_gradient) + at + (r + i) * a.cols);
      }
    }
    fetch(r + kRows);

    float row_max[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float row_factor = factors[r + i];
      row_max[i] = 0.0F;
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        const float value = g[i].at(j);
        sum[j] += value;
        col_max[j] = max_magnitude(col_max[j], value * row_factor);
        row_max[i] = max_magnitude(row_max[i], value * col_factor[j]);
      }
    }
    if (a.codes == nullptr) continue;

    std::uint32_t bits[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      bits[i] = __reduce_max_sync(kWholeWarp, __float_as_uint(row_max[i]));
      if (lane == 0) warp_max[buffer][i][warp] = bits[i];
    }
    // One barrier a round: the other buffer's readers of the round before have passed it when it is written again.
    __syncthreads();
    std::uint32_t mine = 0;  // lane i works out the scale of row i
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      bits[i] = __reduce_max_sync(kWholeWarp, lane < warps ? warp_max[buffer][i][lane] : 0U);
      mine = lane == i ? bits[i] : mine;
    }
    const float scale = scale_of_max_bits(mine, a.row_floor, a.row_q_max);
    const float lane_inverse = __frcp_rn(scale);
    if (warp == 0 && lane < kRows && r + lane < rows) a.row_scales[first + r + lane] = scale;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float inverse = __shfl_sync(kWholeWarp, lane_inverse, i), limit = limit_of(inverse, a.row_q_max);
      if (!active || r + i >= rows) continue;
      const std::int64_t element = at + (r + i) * a.cols;
      Philox4 draws;
      if constexpr (kStochastic) draws = rounding_block(a.row_key, static_cast<std::uint64_t>(element) / kGroup);
      std::uint32_t code[kGroup];
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        const float v = clamp_magnitude(g[i].at(j) * col_factor[j] * inverse, limit);
        code[j] = kStochastic ? stochastic_code(v, draw_of(draws, j)) : nearest_code(v);
      }
      *reinterpret_cast<uint2*>(a.codes + element) = pack8(code);
    }
  }

  if (!active) return;
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    if (a.partials != nullptr) a.partials[blockIdx.x * a.cols + c + j] = sum[j];
    // A maximum of integers is the same in every order.
    if (a.max_bits != nullptr) atomicMax(a.max_bits + c + j, __float_as_uint(col_max[j]));
  }
}

template <typename T, bool kGelu, bool kStochastic>
void launch_row_pass(const RowPassArgs& a, unsigned strips, cudaStream_t stream) {
  const auto threads = static_cast<unsigned>((a.cols / kGroup + 31) / 32 * 32);
  if (threads <= kNarrowThreads)
    gradient_rows_kernel<T, kGelu, kStochastic, false><<<strips, threads, 0, stream>>>(a);
  else
    gradient_rows_kernel<T, kGelu, kStochastic, true><<<strips, threads, 0, stream>>>(a);
  QAT_CUDA_CHECK(cudaGetLastError());
}

template <typename T, bool kGelu>
void launch_row_pass(const RowPassArgs& a, bool stochastic, std::int64_t strips, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(strips);
  if (stochastic && a.codes != nullptr)
    launch_row_pass<T, kGelu, true>(a, blocks, stream);
  else
    launch_row_pass<T, kGelu, false>(a, blocks, stream);
}

// dy * gelu'(x) of any shape and alignment.
template <typename T>
__global__ void __launch_bounds__(256) gelu_gradient_kernel(const T* dy, const T* x, T* g, std::int64_t n) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    g[i] = from_float<T>(to_float(dy[i]) * gelu_slope(to_float(x[i])));
}

template <typename T>
void gelu_gradient(const Exec& exec, const ConstFloatMatrix& dy, const ConstFloatMatrix& x, const FloatMatrix& g) {
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((g.size() + 255) / 256, kMultiprocessors * 16));
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
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((rows * cols + 255) / 256, kMultiprocessors * 16));
  join_kernel<T><<<blocks, 256, 0, cuda_stream(exec)>>>(side_by_side(g), static_cast<T*>(joined), rows, cols);
  QAT_CUDA_CHECK(cudaGetLastError());
}

ColumnStatistics statistics_for(const GradientEncoding& encoding, const GradientCodes& out, float* inverses) {
  ColumnStatistics statistics;
  statistics.sums = out.column_sums;
  if (out.cols_transposed.empty()) return statistics;
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

// The first read: row codes, column maxima and sums, and for `x` the gradient of GELU on the way.
// g: what is read; gelu: where its product with the slope at x goes, empty without one.
void first_pass(const Exec& exec, const GradientColumns& g, const ConstFloatMatrix& x, const FloatMatrix& gelu,
                const GradientEncoding& encoding, const GradientCodes& out, float* inverses) {
  const std::int64_t rows = rows_of(g), cols = cols_of(g);
  const std::int64_t threads = (cols / kGroup + 31) / 32 * 32;
  const std::int64_t wanted = kMultiprocessors * std::max<std::int64_t>(1, kMaxThreads / threads);
  const std::int64_t strip_rows =
      std::min(kMaxStripRows, std::max<std::int64_t>(4, (rows + wanted - 1) / wanted + 3) / 4 * 4);
  const std::int64_t strips = (rows + strip_rows - 1) / strip_rows;
  const ColumnStatistics statistics = statistics_for(encoding, out, inverses);
  const DeviceScratch<float> partials(exec, statistics.sums.empty() ? 0 : strips * cols);
  const DeviceScratch<std::uint32_t> max_bits(exec, statistics.scales.empty() ? 0 : cols);
  const auto stream = cuda_stream(exec);
  if (!statistics.scales.empty())
    QAT_CUDA_CHECK(cudaMemsetAsync(max_bits.get(), 0, static_cast<std::size_t>(cols) * sizeof(std::uint32_t), stream));
  const EncodeOptions& options = encoding.row_options;
  const bool with_rows = !out.rows.empty();
  const RowPassArgs a{.g = side_by_side(g),
                      .x = x.data,
                      .gelu_gradient = gelu.data,
                      .rows = rows,
                      .cols = cols,
                      .strip_rows = strip_rows,
                      .row_factors = encoding.row_factors.empty() ? nullptr : encoding.row_factors.data(),
                      .col_factors = encoding.col_factors.empty() ? nullptr : encoding.col_factors.data(),
                      .row_floor = options.amax_floor,
                      .row_q_max = with_rows ? static_cast<float>(options.width.q_max()) : 1.0F,
                      .row_key = options.key,
                      .codes = with_rows ? out.rows.data : nullptr,
                      .row_scales = out.row_scales.data(),
                      .max_bits = max_bits.get(),
                      .partials = partials.get()};
  const bool stochastic = options.rounding == Rounding::kStochastic;
  if (g.parts[0].dtype == DType::kBFloat16)
    gelu.data != nullptr ? launch_row_pass<__nv_bfloat16, true>(a, stochastic, strips, stream)
                         : launch_row_pass<__nv_bfloat16, false>(a, stochastic, strips, stream);
  else
    gelu.data != nullptr ? launch_row_pass<float, true>(a, stochastic, strips, stream)
                         : launch_row_pass<float, false>(a, stochastic, strips, stream);
  if (!statistics.sums.empty() || !statistics.scales.empty())
    finish_columns_cuda(exec, cols, partials.get(), strips, max_bits.get(), statistics);
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
                        .key = options.key,
                        .codes = out.rows.data,
                        .row_scales = out.row_scales.data(),
                        .max_bits = max_bits.get()};
  code_narrow_rows_cuda(exec, rows, g.cols, g.dtype, options.rounding == Rounding::kStochastic);
  if (with_columns) finish_columns_cuda(exec, g.cols, nullptr, 0, max_bits.get(), statistics);
}

bool takes_row_pass(const GradientColumns& g, const GradientCodes& out) {
  return has_vector_rows(g) && cols_of(g) <= kMaxThreads * kGroup && is_aligned(out.rows.data, 8) && rows_of(g) > 0 &&
         cols_of(g) > 0;
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
  const DeviceScratch<float> inverses(exec, out.cols_transposed.empty() ? 0 : cols_of(g));
  const bool narrow = g.count == 1 && g.parts[0].is_dense() && takes_narrow_rows(cols_of(g)) && out.column_sums.empty();
  if (narrow && !out.rows.empty() && takes_row_pass(g, out))
    narrow_pass(exec, g.parts[0], encoding, out, inverses.get());
  else if (!out.rows.empty() && takes_row_pass(g, out))
    first_pass(exec, g, {}, {}, encoding, out, inverses.get());
  else
    encode_by_parts(exec, g, encoding, out, inverses.get());
  code_columns(exec, g, encoding, out, inverses.get());
}

void encode_gelu_gradient_cuda(const Exec& exec, ConstFloatMatrix dy, ConstFloatMatrix x, FloatMatrix g,
                               const GradientEncoding& encoding, const GradientCodes& out) {
  const GradientColumns product = one_part(g), from = one_part(dy);
  if (g.cols == 0) return;
  const DeviceScratch<float> inverses(exec, out.cols_transposed.empty() ? 0 : g.cols);
  if (takes_row_pass(product, out) && has_vector_rows(from) && has_vector_rows(one_part(x))) {
    first_pass(exec, from, x, g, encoding, out, inverses.get());
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
