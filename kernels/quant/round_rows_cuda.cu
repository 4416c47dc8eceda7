#include "kernels/common/codes.cuh"
#include "kernels/common/cuda_check.h"
#include "kernels/common/float_vectors.cuh"
#include "kernels/quant/code_passes_cuda.h"
#include "kernels/quant/round_rows_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kPiece = 8;  // elements of one thread of the vector kernels
constexpr int kMaxThreads = 1024;

struct Args {
  float* x;
  std::int64_t rows, cols;
  float floor, q_max;
  RoundingKeys keys;
};

template <bool kStochastic>
struct RowScale {
  float scale, inverse, limit;
  __device__ RowScale(const Args& a, std::uint32_t max_bits) {
    scale = scale_of_max_bits(max_bits, a.floor, a.q_max);
    inverse = __frcp_rn(scale);
    limit = limit_of(inverse, a.q_max);
  }
  // shifted: shifted_draw of the element, for kStochastic.
  __device__ float round(float x, float shifted) const {
    const float v = clamp_magnitude(x * inverse, limit);
    const std::uint32_t code = kStochastic ? stochastic_code(v, shifted) : nearest_code(v);
    return static_cast<float>(static_cast<std::int8_t>(code >> (8 * code_byte<kStochastic>))) * scale;
  }
};

__device__ float max_of(const float (&x)[kPiece]) {
  float largest = 0.0F;
#pragma unroll
  for (int j = 0; j < kPiece; ++j) largest = max_magnitude(largest, x[j]);
  return largest;
}

// Elements index ... index + 7, index a multiple of 8.
template <bool kStochastic>
__device__ void round_piece(const Args& a, const RowScale<kStochastic>& row, float (&x)[kPiece], std::int64_t index) {
  Draws8 draws{};
  if constexpr (kStochastic) draws = draws_of(a.keys, static_cast<std::uint64_t>(index) / kPiece);
#pragma unroll
  for (int j = 0; j < kPiece; ++j) x[j] = row.round(x[j], shifted_draw(draws, j));
  store8(a.x + index, pack8<float>(x));
}

// The same in every thread of the CTA, which calls this once.
__device__ std::uint32_t cta_max_bits(float largest) {
  __shared__ std::uint32_t warp_bits[kMaxThreads / 32];
  const std::uint32_t bits = __reduce_max_sync(kWholeWarp, __float_as_uint(largest));
  if (threadIdx.x % 32 == 0) warp_bits[threadIdx.x / 32] = bits;
  __syncthreads();
  const unsigned lane = threadIdx.x % 32;
  return __reduce_max_sync(kWholeWarp, lane < blockDim.x / 32 ? warp_bits[lane] : 0U);
}

// Short rows: `lanes` neighbouring threads hold one, a power of two so that no row crosses a warp.
template <bool kStochastic>
__global__ void __launch_bounds__(kThreads) round_short_rows_kernel(const Args a, int lanes) {
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * (kThreads / lanes) + thread / lanes;
  const int c = thread % lanes * kPiece;
  const bool active = r < a.rows && c < a.cols;
  float x[kPiece] = {};
  if (active) unpack8(load8(a.x + r * a.cols + c), x);
  std::uint32_t bits = __float_as_uint(max_of(x));
  for (int distance = lanes / 2; distance > 0; distance /= 2)
    bits = max(bits, __shfl_xor_sync(kWholeWarp, bits, distance));
  if (active) round_piece(a, RowScale<kStochastic>(a, bits), x, r * a.cols + c);
}

// Long rows: a CTA holds one.
template <bool kStochastic>
__global__ void __launch_bounds__(kMaxThreads) round_long_rows_kernel(const Args a) {
  const int c = static_cast<int>(threadIdx.x) * kPiece;
  const std::int64_t index = blockIdx.x * a.cols + c;
  const bool active = c < a.cols;
  float x[kPiece] = {};
  if (active) unpack8(load8(a.x + index), x);
  const RowScale<kStochastic> row(a, cta_max_bits(max_of(x)));
  if (active) round_piece(a, row, x, index);
}

// Rows of any length and alignment: a CTA reads one twice.
template <bool kStochastic>
__global__ void __launch_bounds__(kThreads) round_any_rows_kernel(const Args a) {
  const std::int64_t first = blockIdx.x * a.cols;
  float largest = 0.0F;
  for (std::int64_t c = threadIdx.x; c < a.cols; c += kThreads) largest = max_magnitude(largest, a.x[first + c]);
  const RowScale<kStochastic> row(a, cta_max_bits(largest));
  for (std::int64_t c = threadIdx.x; c < a.cols; c += kThreads) {
    const std::int64_t index = first + c;
    std::uint32_t draw = 0;
    if constexpr (kStochastic) draw = rounding_byte_at(a.keys, static_cast<std::uint64_t>(index));
    a.x[index] = row.round(a.x[index], shifted_draw(draw));
  }
}

template <bool kStochastic>
void launch(const Args& a, cudaStream_t stream) {
  const auto rows = static_cast<unsigned>(a.rows);
  if (a.cols % kPiece != 0 || a.cols > kMaxThreads * kPiece || !is_aligned(a.x, 16)) {
    round_any_rows_kernel<kStochastic><<<rows, kThreads, 0, stream>>>(a);
  } else if (a.cols <= 32 * kPiece) {
    int lanes = 1;
    while (lanes * kPiece < a.cols) lanes *= 2;
    const auto blocks = static_cast<unsigned>((a.rows * lanes + kThreads - 1) / kThreads);
    round_short_rows_kernel<kStochastic><<<blocks, kThreads, 0, stream>>>(a, lanes);
  } else {
    const auto threads = static_cast<unsigned>((a.cols / kPiece + 31) / 32 * 32);
    round_long_rows_kernel<kStochastic><<<rows, threads, 0, stream>>>(a);
  }
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void round_rows_cuda(const Exec& exec, Matrix<float> x, const EncodeOptions& options) {
  const Args args{.x = x.data,
                  .rows = x.rows,
                  .cols = x.cols,
                  .floor = options.amax_floor,
                  .q_max = static_cast<float>(options.width.q_max()),
                  .keys = rounding_keys(options.key)};
  if (options.rounding == Rounding::kStochastic)
    launch<true>(args, cuda_stream(exec));
  else
    launch<false>(args, cuda_stream(exec));
}

}  // namespace qat::kernels
