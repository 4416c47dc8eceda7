// adapter_backward.h on GPUs of sm_90. g: [M, N]; b: [N, r]; h: [M, r]; r <= 64.
//
//   adapter_products_sm90   reads g once; its blocks leave parts of the sums:
//                             dh[m,j] = sum_n g[m,n] b[n,j]                    [groups of columns, M, r]
//                             db[n,j] = sum_m g[m,n] (h[m,j] x_scales[m])      [strips of rows, N, r]
//   adapter_finish_kernel   adds the parts in order, rounds db to the values of its codes and codes the rows of dh
//   code_hidden_columns     codes the columns of dh, of which the finish has left the maxima
//
// The parts are small beside g, so what counts in the finish is to be one launch: some blocks take db, the others dh. A
// row is two, four or eight lanes of eight columns, so that its largest magnitude, which its codes wait for, is a few
// shuffles away. A row of db has as many parts as there are strips: sixteen slices of a block share them.
#include <algorithm>

#include "kernels/common/codes.cuh"
#include "kernels/common/device_scratch.h"
#include "kernels/common/error.h"
#include "kernels/common/float_vectors.cuh"
#include "kernels/gemm/adapter_backward_cuda.h"
#include "kernels/quant/code_passes_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kHiddenBlocks = 132 * 4;  // that go through the rows of dh

// Of the summing kernel. A row of r columns is kLanes lanes of eight; the lanes beyond r idle.
constexpr int kSlices = 16;                        // that share the strips of a row of db
constexpr int kGroupsAcross = kThreads / kSlices;  // lanes side by side in a slice

struct RowRounding {
  float floor, q_max;  // q_max 0: values stay as they are
  RoundingKeys keys;
  bool stochastic;
};

struct FinishArgs {
  AdapterPartials partials;
  AdapterCut cut;
  std::int64_t rows, cols;
  int rank;
  float scaling;
  RowRounding db_rounding, dh_rounding;
  const float* x_scales;
  const float* a_scales;
  const float* g_row_scales;
  float* db;
  __nv_bfloat16* dh;
  __nv_bfloat16* dx_term;
  std::uint32_t* max_bits;  // [r], zeroed: of the columns of dh * x_scales
  unsigned db_blocks;       // the first blocks sum db, the others dh
};

// sum += the `count` terms that lie `step` floats apart, in order.
__device__ __forceinline__ void add8(const float* from, std::int64_t count, std::int64_t step, float (&sum)[kGroup]) {
#pragma unroll 4
  for (std::int64_t i = 0; i < count; ++i) {
    float term[kGroup];
    unpack8(load8(from + i * step), term);
#pragma unroll
    for (int j = 0; j < kGroup; ++j) sum[j] += term[j];
  }
}

// Eight elements' codes times `value_scale`. element: the number of the first one, for its draws.
template <bool kStochastic>
__device__ __forceinline__ void replace_by_codes(float (&v)[kGroup], float inverse, float limit,
                                                 const RoundingKeys& keys, std::int64_t element, float value_scale) {
  Draws8 draws{};
  if constexpr (kStochastic) draws = draws_of(keys, static_cast<std::uint64_t>(element) / kGroup);
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    const std::uint32_t code = rounded_code<kStochastic>(clamp_magnitude(v[j] * inverse, limit), draws, j);
    v[j] = static_cast<float>(static_cast<std::int8_t>(code >> (8 * code_byte<kStochastic>))) * value_scale;
  }
}

// The largest magnitude of a row's kLanes lanes, as bits. All lanes of `mask` call it.
template <int kLanes>
__device__ __forceinline__ std::uint32_t row_max_bits(const float (&v)[kGroup], unsigned mask) {
  float largest = 0.0F;
#pragma unroll
  for (int j = 0; j < kGroup; ++j) largest = max_magnitude(largest, v[j]);
  std::uint32_t bits = __float_as_uint(largest);
#pragma unroll
  for (int lanes = 1; lanes < kLanes; lanes *= 2) bits = max(bits, __shfl_xor_sync(mask, bits, lanes));
  return bits;
}

// v becomes its codes' values; scale is that of its row.
__device__ __forceinline__ void round_to_codes(const RowRounding& to, float scale, std::int64_t element,
                                               float value_scale, float (&v)[kGroup]) {
  const float inverse = __frcp_rn(scale), limit = limit_of(inverse, to.q_max);
  if (to.stochastic)
    replace_by_codes<true>(v, inverse, limit, to.keys, element, value_scale);
  else
    replace_by_codes<false>(v, inverse, limit, to.keys, element, value_scale);
}

// db: every slice of the block adds its strips, then the first one adds the slices.
template <int kLanes>
__device__ void finish_weights(const FinishArgs& a, float (&shared)[kSlices][kGroupsAcross * kGroup]) {
  const int across = static_cast<int>(threadIdx.x) % kGroupsAcross;
  const int slice = static_cast<int>(threadIdx.x) / kGroupsAcross;
  const int col = across % kLanes * kGroup;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (kGroupsAcross / kLanes) + across / kLanes;
  const bool active = row < a.cols && col < a.rank;
  const std::int64_t element = row * a.rank + col, strip_elems = a.cols * a.rank;
  float sum[kGroup] = {};
  if (active && slice < a.cut.strips)
    add8(a.partials.db + slice * strip_elems + element, (a.cut.strips - slice + kSlices - 1) / kSlices,
         kSlices * strip_elems, sum);
  store8(&shared[slice][across * kGroup], pack8<float>(sum));
  __syncthreads();
  if (slice > 0) return;
  add8(&shared[1][across * kGroup], kSlices - 1, kGroupsAcross * kGroup, sum);
#pragma unroll
  for (float& value : sum) value *= a.scaling;
  if (a.db_rounding.q_max > 0.0F) {
    constexpr unsigned kFirstSlice = (1U << kGroupsAcross) - 1U;
    const std::uint32_t bits = row_max_bits<kLanes>(sum, kFirstSlice);
    const float scale = scale_of_max_bits(bits, a.db_rounding.floor, a.db_rounding.q_max);
    round_to_codes(a.db_rounding, scale, element, scale, sum);
  }
  if (active) store8(a.db + element, pack8<float>(sum));
}

// dh, its part of dX, and the maxima of its columns. A thread keeps its columns from row to row.
template <int kLanes>
__device__ void finish_hidden(const FinishArgs& a, unsigned block, unsigned blocks, std::uint32_t* shared_max) {
  const int col = static_cast<int>(threadIdx.x) % kLanes * kGroup;
  const bool in_rank = col < a.rank;
  if (threadIdx.x < kLanes * kGroup) shared_max[threadIdx.x] = 0;
  __syncthreads();
  float a_scale[kGroup] = {}, col_max[kGroup] = {};
  if (in_rank) unpack8(load8(a.a_scales + col), a_scale);
  constexpr std::int64_t kRowsAtOnce = kThreads / kLanes;
  // Lanes beyond the last row and beyond the rank take part in the shuffles.
  for (std::int64_t first = block * kRowsAtOnce; first < a.rows; first += blocks * kRowsAtOnce) {
    const std::int64_t row = first + static_cast<int>(threadIdx.x) / kLanes, element = row * a.rank + col;
    const bool active = row < a.rows && in_rank;
    float v[kGroup] = {};
    if (active) add8(a.partials.dh + element, a.cut.groups, a.rows * a.rank, v);
    const Raw8<__nv_bfloat16> rounded = pack8<__nv_bfloat16>(v);
    unpack8(rounded, v);
    const float x_scale = active ? a.x_scales[row] : 0.0F;
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      if (active) col_max[j] = max_magnitude(col_max[j], v[j] * x_scale);
      v[j] *= a_scale[j];
    }
    const std::uint32_t bits = row_max_bits<kLanes>(v, kWholeWarp);
    if (!active) continue;
    const float scale = scale_of_max_bits(bits, a.dh_rounding.floor, a.dh_rounding.q_max);
    round_to_codes(a.dh_rounding, scale, element, __fdiv_rn(scale, a.g_row_scales[row]), v);
    store8(a.dx_term + element, pack8<__nv_bfloat16>(v));
    store8(a.dh + element, rounded);
  }
#pragma unroll
  for (int j = 0; j < kGroup; ++j) atomicMax(shared_max + col + j, __float_as_uint(col_max[j]));
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < a.rank) atomicMax(a.max_bits + threadIdx.x, shared_max[threadIdx.x]);
}

template <int kLanes>
__global__ void __launch_bounds__(kThreads) adapter_finish_kernel(const FinishArgs a) {
  __shared__ __align__(16) float shared[kSlices][kGroupsAcross * kGroup];
  if (blockIdx.x < a.db_blocks)
    finish_weights<kLanes>(a, shared);
  else
    finish_hidden<kLanes>(a, blockIdx.x - a.db_blocks, gridDim.x - a.db_blocks,
                          reinterpret_cast<std::uint32_t*>(shared));
}

template <int kLanes>
void launch_finish(FinishArgs a, cudaStream_t stream) {
  constexpr std::int64_t kDbRows = kGroupsAcross / kLanes, kDhRows = kThreads / kLanes;
  const std::int64_t db_blocks = (a.cols + kDbRows - 1) / kDbRows;
  const std::int64_t dh_blocks = std::min((a.rows + kDhRows - 1) / kDhRows, kHiddenBlocks);
  a.db_blocks = static_cast<unsigned>(db_blocks);
  adapter_finish_kernel<kLanes><<<static_cast<unsigned>(db_blocks + dh_blocks), kThreads, 0, stream>>>(a);
  QAT_CUDA_CHECK(cudaGetLastError());
}

RowRounding rounding_of(const EncodeOptions& options) {
  return {options.amax_floor, options.width.is_full() ? 0.0F : static_cast<float>(options.width.q_max()),
          rounding_keys(options.key), options.rounding == Rounding::kStochastic};
}

// Sums what the blocks left: db with its rounding, dh [M, r], its part of dX, its columns' maxima.
void finish_products(const Exec& exec, const AdapterBackwardOperands& operands, const AdapterBackwardOptions& options,
                     const AdapterGradients& out, const AdapterCut& cut, const AdapterPartials& partials,
                     __nv_bfloat16* dh, std::uint32_t* max_bits) {
  const std::int64_t rank = operands.b.cols;
  const FinishArgs a{.partials = partials,
                     .cut = cut,
                     .rows = operands.h.rows,
                     .cols = operands.b.rows,
                     .rank = static_cast<int>(rank),
                     .scaling = operands.scaling,
                     .db_rounding = rounding_of(options.db),
                     .dh_rounding = rounding_of(options.rows),
                     .x_scales = operands.x_scales.data(),
                     .a_scales = operands.a_scales.data(),
                     .g_row_scales = operands.g_row_scales.data(),
                     .db = out.db.data,
                     .dh = dh,
                     .dx_term = static_cast<__nv_bfloat16*>(out.dx_term.data),
                     .max_bits = max_bits,
                     .db_blocks = 0};
  const auto stream = cuda_stream(exec);
  if (rank <= 16)
    launch_finish<2>(a, stream);
  else if (rank <= 32)
    launch_finish<4>(a, stream);
  else
    launch_finish<8>(a, stream);
}

__global__ void __launch_bounds__(kThreads) invert_kernel(const float* scales, float* inverses, std::int64_t n) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) inverses[i] = __frcp_rn(scales[i]);
}

// The columns of g, in a read of their own.
void code_columns(const Exec& exec, const GradientColumns& g, std::span<const float> x_scales,
                  const AdapterColumns& columns) {
  const std::int64_t cols = cols_of(g);
  const DeviceScratch<float> inverses(exec, cols);
  invert_kernel<<<static_cast<unsigned>((cols + kThreads - 1) / kThreads), kThreads, 0, cuda_stream(exec)>>>(
      columns.scales.data(), inverses.get(), cols);
  QAT_CUDA_CHECK(cudaGetLastError());
  code_by_column_cuda(exec, {g, {x_scales, {}}, columns.options, {{}, columns.codes_transposed}}, inverses.get());
}

// The columns of dh, whose maxima are known.
void code_hidden_columns(const Exec& exec, const ConstFloatMatrix& dh, std::span<const float> x_scales,
                         const EncodeOptions& options, const std::uint32_t* max_bits, const AdapterGradients& out) {
  const DeviceScratch<float> inverses(exec, dh.cols);
  ColumnStatistics statistics;
  statistics.scales = out.dh_col_scales;
  statistics.inverses = inverses.get();
  statistics.amax_floor = options.amax_floor;
  statistics.q_max = static_cast<float>(options.width.q_max());
  finish_columns_cuda(exec, dh.cols, nullptr, 0, max_bits, statistics);
  code_by_column_cuda(exec, {one_part(dh), {x_scales, {}}, options, {{}, out.dh_cols_transposed}}, inverses.get());
}

}  // namespace

bool takes_adapter_backward_cuda(const GradientColumns& g, std::int64_t rank) {
  int device = 0, major = 0;
  QAT_CUDA_CHECK(cudaGetDevice(&device));
  QAT_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major == 9 && g.parts[0].dtype == DType::kBFloat16 && has_vector_rows(g) && rows_of(g) > 0 && cols_of(g) > 0 &&
         rank % 8 == 0 && rank > 0 && rank <= kMaxAdapterRank;
}

void adapter_backward_cuda(const Exec& exec, const GradientColumns& g, const AdapterBackwardOperands& operands,
                           const AdapterBackwardOptions& options, const AdapterGradients& out,
                           const AdapterColumns& columns) {
  const std::int64_t rows = rows_of(g), cols = cols_of(g), rank = operands.b.cols;
  QAT_CHECK(takes_adapter_backward_cuda(g, rank), "callers ask takes_adapter_backward() first");
  QAT_CHECK(is_aligned(operands.b.data, 16) && is_aligned(operands.h.data, 16) && is_aligned(out.dx_term.data, 16) &&
                is_aligned(out.db.data, 16) && is_aligned(operands.a_scales.data(), 16),
            "b, h, a_scales and the results start on 16 bytes");
  const AdapterCut cut = adapter_cut(g, rank);
  const DeviceScratch<float> dh_parts(exec, cut.groups * rows * rank), db_parts(exec, cut.strips * cols * rank);
  const DeviceScratch<__nv_bfloat16> dh(exec, rows * rank);
  const DeviceScratch<std::uint32_t> max_bits(exec, rank);
  QAT_CUDA_CHECK(
      cudaMemsetAsync(max_bits.get(), 0, static_cast<std::size_t>(rank) * sizeof(std::uint32_t), cuda_stream(exec)));
  const AdapterPartials partials{dh_parts.get(), db_parts.get()};
  const bool together = takes_adapter_columns(g, rank, columns.codes_transposed);
  adapter_products_sm90(exec, g, operands, together ? columns : AdapterColumns{}, cut, partials);
  if (!together && !columns.codes_transposed.empty()) code_columns(exec, g, operands.x_scales, columns);
  finish_products(exec, operands, options, out, cut, partials, dh.get(), max_bits.get());
  code_hidden_columns(exec, {dh.get(), rows, rank, rank, DType::kBFloat16}, operands.x_scales, options.cols,
                      max_bits.get(), out);
}

}  // namespace qat::kernels
