#include <algorithm>

#include "kernels/common/codes.cuh"
#include "kernels/common/device_scratch.h"
#include "kernels/common/float_vectors.cuh"
#include "kernels/quant/code_passes_cuda.h"
#include "kernels/quant/encode_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kUnroll = 4;  // loads of one lane in flight

struct RowArgs {
  const void* x;
  std::int64_t rows, cols;
  const float* row_factors;  // null: ones
  const float* col_factors;
  float floor, q_max;
  RoundingKeys keys;
  float* scales;
  std::int8_t* codes;  // either may be null
  std::int8_t* transposed;
};

// Eight column factors from column c on, or ones.
template <bool kColFactors>
__device__ Raw8<float> col_factors_at(const RowArgs& a, std::int64_t c) {
  if constexpr (kColFactors) return load8(a.col_factors + c);
  return {{1, 1, 1, 1}, {1, 1, 1, 1}};
}

template <typename T, bool kColFactors>
__device__ std::uint32_t row_max_bits(const RowArgs& a, const T* row, float row_factor, int lane) {
  constexpr int kStep = 32 * kGroup;
  float largest = 0.0F;
  for (std::int64_t c = lane * kGroup; c < a.cols; c += kStep * kUnroll) {
    Raw8<T> raw[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i)
      if (c + i * kStep < a.cols) raw[i] = load8(row + c + i * kStep);
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      if (c + i * kStep >= a.cols) continue;
      const Raw8<float> factors = col_factors_at<kColFactors>(a, c + i * kStep);
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        float y = element(raw[i], j) * row_factor;
        if constexpr (kColFactors) y *= element(factors, j);
        largest = max_magnitude(largest, y);
      }
    }
  }
  return __reduce_max_sync(kWholeWarp, __float_as_uint(largest));
}

// A block codes kTileRows rows, a warp a row at a time: once for the maximum, and again, out of the cache, for the
// codes. For the transposed copy it keeps the codes in shared memory: row r starts at word r * cols / 4 + (r / 16) *
// kPad, so that the 16-row groups that a warp reads side by side lie in different banks.
template <typename T, int kTileRows, bool kColFactors, bool kStochastic>
__global__ void __launch_bounds__(kThreads, 2) encode_rows_kernel(const RowArgs a) {
  extern __shared__ uint4 shared[];
  constexpr int kGroups = kTileRows / 16, kPad = 32 / kGroups, kStep = 32 * kGroup;
  auto* tile = reinterpret_cast<std::uint32_t*>(shared);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int pitch = static_cast<int>(a.cols / 4);  // words
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kTileRows;
  for (int i = warp; i < kTileRows; i += kWarps) {
    const std::int64_t r = first + i;
    if (r >= a.rows) break;
    const T* row = static_cast<const T*>(a.x) + r * a.cols;
    const float row_factor = a.row_factors != nullptr ? a.row_factors[r] : 1.0F;
    const float scale = scale_of_max_bits(row_max_bits<T, kColFactors>(a, row, row_factor, lane), a.floor, a.q_max);
    if (lane == 0) a.scales[r] = scale;
    const float inverse = __frcp_rn(scale), limit = limit_of(inverse, a.q_max);
    std::uint32_t* tile_row = tile + i * pitch + i / 16 * kPad;
#pragma unroll 2
    for (std::int64_t c = lane * kGroup; c < a.cols; c += kStep) {
      const Raw8<T> raw = load8(row + c);
      const Raw8<float> factors = col_factors_at<kColFactors>(a, c);
      Draws8 draws{};
      if constexpr (kStochastic) draws = draws_of(a.keys, static_cast<std::uint64_t>(r * a.cols + c) / kGroup);
      std::uint32_t code[kGroup];
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        float y = element(raw, j) * row_factor;
        if constexpr (kColFactors) y *= element(factors, j);
        const float v = clamp_magnitude(y * inverse, limit);
        code[j] = rounded_code<kStochastic>(v, draws, j);
      }
      const uint2 packed = pack_codes<kStochastic>(code);
      if (a.codes != nullptr) *reinterpret_cast<uint2*>(a.codes + r * a.cols + c) = packed;
      if (a.transposed != nullptr) *reinterpret_cast<uint2*>(tile_row + c / 4) = packed;
    }
  }
  if (a.transposed == nullptr) return;
  __syncthreads();
  // A lane turns 16 rows x 4 columns into four pieces of 16 bytes; kGroups lanes side by side write one run.
  constexpr int kWordsAcross = 32 / kGroups;
  const int group = lane % kGroups;
  const std::int64_t to_col = first + group * 16;
  for (int word = warp * kWordsAcross + lane / kGroups; word < pitch; word += kWarps * kWordsAcross) {
    if (to_col >= a.rows) continue;  // rows % 16 == 0: a group is whole or absent
    const std::uint32_t* from = tile + group * 16 * pitch + group * kPad + word;
    std::uint32_t out[4][4];  // [column][four rows]
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const std::uint32_t w0 = from[(4 * q) * pitch], w1 = from[(4 * q + 1) * pitch], w2 = from[(4 * q + 2) * pitch],
                          w3 = from[(4 * q + 3) * pitch];
      const std::uint32_t low01 = __byte_perm(w0, w1, 0x5140U), high01 = __byte_perm(w0, w1, 0x7362U);
      const std::uint32_t low23 = __byte_perm(w2, w3, 0x5140U), high23 = __byte_perm(w2, w3, 0x7362U);
      out[0][q] = __byte_perm(low01, low23, 0x5410U);
      out[1][q] = __byte_perm(low01, low23, 0x7632U);
      out[2][q] = __byte_perm(high01, high23, 0x5410U);
      out[3][q] = __byte_perm(high01, high23, 0x7632U);
    }
#pragma unroll
    for (int b = 0; b < 4; ++b)
      *reinterpret_cast<uint4*>(a.transposed + (4 * static_cast<std::int64_t>(word) + b) * a.rows + to_col) =
          make_uint4(out[b][0], out[b][1], out[b][2], out[b][3]);
  }
}

// Scales of rows of any shape and alignment; the codes are another pass.
template <typename T>
__global__ void __launch_bounds__(kThreads) row_scales_kernel(const RowArgs a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (r >= a.rows) return;
  const T* row = static_cast<const T*>(a.x) + r * a.cols;
  const float row_factor = a.row_factors != nullptr ? a.row_factors[r] : 1.0F;
  float largest = 0.0F;
  for (std::int64_t c = lane; c < a.cols; c += 32) {
    float y = to_float(row[c]) * row_factor;
    if (a.col_factors != nullptr) y *= a.col_factors[c];
    largest = max_magnitude(largest, y);
  }
  const std::uint32_t bits = __reduce_max_sync(kWholeWarp, __float_as_uint(largest));
  if (lane == 0) a.scales[r] = scale_of_max_bits(bits, a.floor, a.q_max);
}

template <typename T, int kTileRows, bool kColFactors, bool kStochastic>
void launch_rows(const RowArgs& a, cudaStream_t stream) {
  std::int64_t bytes = 0;
  if (a.transposed != nullptr) bytes = kTileRows * a.cols + kTileRows / 16 * (32 / (kTileRows / 16)) * 4;
  const auto kernel = encode_rows_kernel<T, kTileRows, kColFactors, kStochastic>;
  QAT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  kernel<<<static_cast<unsigned>((a.rows + kTileRows - 1) / kTileRows), kThreads, static_cast<std::size_t>(bytes),
           stream>>>(a);
  QAT_CUDA_CHECK(cudaGetLastError());
}

constexpr std::int64_t kTileBytes = 225 * 1024;  // of shared memory, for a block that has a multiprocessor to itself

// The tallest tile of which two fit a multiprocessor, as long as the runs of the transposed copy stay 64 bytes and the
// blocks fill the chip.
int tile_rows_for(const RowArgs& a) {
  if (a.transposed == nullptr) return 32;
  if (128 * a.cols <= kTileBytes / 2 && a.rows >= 128 * 132) return 128;
  if (64 * a.cols <= kTileBytes && a.rows >= 64 * 66) return 64;
  return 32;
}

template <typename T, bool kColFactors, bool kStochastic>
void launch_rows(const RowArgs& a, cudaStream_t stream) {
  switch (tile_rows_for(a)) {
    case 128:
      return launch_rows<T, 128, kColFactors, kStochastic>(a, stream);
    case 64:
      return launch_rows<T, 64, kColFactors, kStochastic>(a, stream);
    default:
      return launch_rows<T, 32, kColFactors, kStochastic>(a, stream);
  }
}

template <typename T>
void launch_rows(const RowArgs& a, bool stochastic, cudaStream_t stream) {
  if (a.col_factors != nullptr)
    stochastic ? launch_rows<T, true, true>(a, stream) : launch_rows<T, true, false>(a, stream);
  else
    stochastic ? launch_rows<T, false, true>(a, stream) : launch_rows<T, false, false>(a, stream);
}

// ---- decoding

template <typename T>
__global__ void __launch_bounds__(256)
    decode_groups_kernel(const std::int8_t* codes, const float* scales, std::int64_t scale_stride, T* x,
                         std::int64_t rows, std::int64_t groups) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * groups;
       i += step) {
    const uint2 packed = *reinterpret_cast<const uint2*>(codes + i * kGroup);
    const float scale = scales[i / groups * scale_stride];
    float values[kGroup];
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      const std::uint32_t word = j < 4 ? packed.x : packed.y;
      values[j] = static_cast<float>(static_cast<std::int8_t>(word >> (8 * (j % 4)))) * scale;
    }
    store8(x + i * kGroup, pack8<T>(values));
  }
}

template <typename T>
__global__ void __launch_bounds__(256)
    decode_elements_kernel(const std::int8_t* codes, const float* scales, std::int64_t scale_stride, T* x,
                           std::int64_t rows, std::int64_t cols) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * cols; i += step)
    x[i] = from_float<T>(static_cast<float>(codes[i]) * scales[i / cols * scale_stride]);
}

template <typename T>
void decode(Matrix<const std::int8_t> codes, std::span<const float> scales, T* x, cudaStream_t stream) {
  const std::int64_t scale_stride = scales.size() == 1 ? 0 : 1;
  const bool vector = codes.cols % kGroup == 0 && is_aligned(codes.data, 8) && is_aligned(x, 16);
  const std::int64_t work = vector ? codes.size() / kGroup : codes.size();
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((work + 255) / 256, 132 * 32));
  if (vector)
    decode_groups_kernel<T>
        <<<blocks, 256, 0, stream>>>(codes.data, scales.data(), scale_stride, x, codes.rows, codes.cols / kGroup);
  else
    decode_elements_kernel<T>
        <<<blocks, 256, 0, stream>>>(codes.data, scales.data(), scale_stride, x, codes.rows, codes.cols);
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void encode_rows_cuda(const Exec& exec, const EncodeCudaJob& job, std::span<float> scales) {
  const auto& [x, factors, options, out] = job;
  if (x.rows == 0) return;
  const RowArgs a{.x = x.data,
                  .rows = x.rows,
                  .cols = x.cols,
                  .row_factors = factors.row_factors.empty() ? nullptr : factors.row_factors.data(),
                  .col_factors = factors.col_factors.empty() ? nullptr : factors.col_factors.data(),
                  .floor = options.amax_floor,
                  .q_max = static_cast<float>(options.width.q_max()),
                  .keys = rounding_keys(options.key),
                  .scales = scales.data(),
                  .codes = out.codes.empty() ? nullptr : out.codes.data,
                  .transposed = out.codes_transposed.empty() ? nullptr : out.codes_transposed.data};
  const auto stream = cuda_stream(exec);
  const bool bf16 = x.dtype == DType::kBFloat16;
  const bool vector = x.cols > 0 && has_vector_rows(one_part(x)) && is_aligned(a.codes, 8) &&
                      is_aligned(a.col_factors, 16) &&
                      (a.transposed == nullptr ||
                       (x.rows % 16 == 0 && is_aligned(a.transposed, 16) && 32 * x.cols + 128 <= kTileBytes));
  if (vector) {
    const bool stochastic = options.rounding == Rounding::kStochastic;
    bf16 ? launch_rows<__nv_bfloat16>(a, stochastic, stream) : launch_rows<float>(a, stochastic, stream);
    return;
  }
  const auto blocks = static_cast<unsigned>((x.rows + kWarps - 1) / kWarps);
  if (bf16)
    row_scales_kernel<__nv_bfloat16><<<blocks, kThreads, 0, stream>>>(a);
  else
    row_scales_kernel<float><<<blocks, kThreads, 0, stream>>>(a);
  QAT_CUDA_CHECK(cudaGetLastError());
  code_by_row_cuda(exec, {one_part(x), factors, options, out}, scales);
}

void encode_cols_cuda(const Exec& exec, const EncodeCudaJob& job, std::span<float> scales) {
  const auto& [x, factors, options, out] = job;
  const DeviceScratch<float> inverses(exec, x.cols);
  ColumnStatistics statistics;
  statistics.scales = scales;
  statistics.inverses = inverses.get();
  statistics.amax_floor = options.amax_floor;
  statistics.q_max = static_cast<float>(options.width.q_max());
  column_statistics_cuda(exec, one_part(x), factors, statistics);
  code_by_column_cuda(exec, {one_part(x), factors, options, out}, inverses.get());
}

void encode_with_scales_cuda(const Exec& exec, const EncodeCudaJob& job, std::span<const float> scales) {
  code_by_row_cuda(exec, {one_part(job.x), job.factors, job.options, job.out}, scales);
}

void decode_rows_cuda(const Exec& exec, Matrix<const std::int8_t> codes, std::span<const float> scales, FloatMatrix x) {
  if (codes.size() == 0) return;
  if (x.dtype == DType::kBFloat16)
    decode(codes, scales, static_cast<__nv_bfloat16*>(x.data), cuda_stream(exec));
  else
    decode(codes, scales, static_cast<float*>(x.data), cuda_stream(exec));
}

}  // namespace qat::kernels
