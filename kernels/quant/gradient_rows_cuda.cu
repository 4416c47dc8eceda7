// The first read of a gradient: codes of its rows, maxima and sums of its columns; with GELU, its gradient on the way.
#include <algorithm>

#include "kernels/common/async_copy.cuh"
#include "kernels/common/codes.cuh"
#include "kernels/common/device_scratch.h"
#include "kernels/common/float_vectors.cuh"
#include "kernels/quant/code_passes_cuda.h"
#include "kernels/quant/gelu_slope.cuh"
#include "kernels/quant/side_by_side.cuh"

namespace qat::kernels {
namespace {

constexpr int kMaxWarps = 16;  // of a block, which has a multiprocessor to itself
constexpr int kMaxThreads = 32 * kMaxWarps;
constexpr int kMaxVectors = 3;                  // more would not fit the registers
constexpr std::int64_t kMaxCols = 8192;         // more would not fit shared memory
constexpr std::int64_t kMaxStride = 1 << 24;    // offsets of a step are 32 bits
constexpr std::int64_t kMultiprocessors = 132;  // a constant, not the device's: it decides the order of the column sums

struct RowPassArgs {
  SideBySide g;  // dy, if the slope of GELU is still to be multiplied in
  const void* x;
  void* gelu_gradient;
  std::int64_t rows, strip_rows;
  int cols, warps;           // of a row
  const float* row_factors;  // null: ones
  const float* col_factors;
  float row_floor, row_q_max;
  RoundingKeys row_keys;
  bool paired;         // cols % 16 == 0: neighbouring lanes own the halves of the same Philox blocks
  std::int8_t* codes;  // null: no row codes
  float* row_scales;
  std::uint32_t* max_bits;  // [cols], of the columns of g * row_factors; null: not wanted
  float* partials;          // [strips, cols], column sums; null: not wanted
};

// Rows on their way, in shared memory: each thread copies what it will itself read, so that no barrier is needed.
template <typename T, bool kGelu, int kVectors>
class Ring {
 public:
  static constexpr int kInputs = kGelu ? 2 : 1, kChunks = static_cast<int>(sizeof(T)) / 2;  // of 16 bytes
  static constexpr int kStages = sizeof(T) == 2 ? (kGelu ? 3 : 4) : (kGelu ? 2 : 3);
  static constexpr int kPieces = kInputs * kVectors * kChunks;  // of a stage
  static constexpr int kBytesPerThread = kStages * kPieces * 16;

  __device__ explicit Ring(const uint4* shared)
      : mine_(shared_address(shared + threadIdx.x)), pitch_(blockDim.x * 16) {}

  // Into the stage to be filled.
  __device__ __forceinline__ void copy(int input, int v, const T* from) const {
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk)
      copy16(address(to_fill_, input, v, chunk), reinterpret_cast<const uint4*>(from) + chunk);
  }
  __device__ __forceinline__ void filled() {
    close_copies();
    to_fill_ = after(to_fill_);
  }
  // Until the stage to be read is there, which is when only the newest kStages - 2 are still on their way.
  __device__ __forceinline__ static void wait() { wait_for_own_copies<kStages - 2>(); }
  __device__ __forceinline__ Raw8<T> read(int input, int v) const {
    const uint4 first = read_shared(address(to_read_, input, v, 0));
    if constexpr (sizeof(T) == 2) {
      return {first};
    } else {
      return {as_floats(first), as_floats(read_shared(address(to_read_, input, v, 1)))};
    }
  }
  __device__ __forceinline__ void was_read() { to_read_ = after(to_read_); }

 private:
  __device__ __forceinline__ unsigned address(unsigned stage, int input, int v, int chunk) const {
    return mine_ + stage + static_cast<unsigned>((input * kVectors + v) * kChunks + chunk) * pitch_;
  }
  __device__ __forceinline__ unsigned after(unsigned stage) const {
    return stage == (kStages - 1) * kPieces * pitch_ ? 0 : stage + kPieces * pitch_;
  }
  unsigned mine_, pitch_;
  unsigned to_fill_ = 0, to_read_ = 0;  // offsets of stages
};

// The groups of a block: a.warps warps share a row.
struct Place {
  int group, groups, lane, width;  // the lane within its group, which has `width`
  int vectors;                     // of this lane's kVectors that are within the row

  __device__ Place(int warps, int cols)
      : group(static_cast<int>(threadIdx.x) / (32 * warps)),
        groups(static_cast<int>(blockDim.x) / (32 * warps)),
        lane(static_cast<int>(threadIdx.x) - group * 32 * warps),
        width(32 * warps),
        vectors((cols / kGroup - lane + width - 1) / width) {}
  __device__ int column(int v) const { return (v * width + lane) * kGroup; }
};

// The largest of a group, in each of its lanes. slots: two sets of a word a warp, in turn: whoever writes a set again
// has passed the barrier of the other one, which a warp reaches only after it has read this one.
__device__ __forceinline__ std::uint32_t group_max(std::uint32_t bits, const Place& place, std::uint32_t* slots) {
  bits = __reduce_max_sync(kWholeWarp, bits);
  if (place.width == 32) return bits;
  const unsigned lane = threadIdx.x % 32;
  if (lane == 0) slots[threadIdx.x / 32] = bits;
  asm volatile("bar.sync %0, %1;" ::"r"(1 + place.group), "r"(place.width) : "memory");
  const auto warps = static_cast<unsigned>(place.width) / 32;
  return __reduce_max_sync(kWholeWarp, lane < warps ? slots[static_cast<unsigned>(place.group) * warps + lane] : 0U);
}

// Four column factors for each lane of a group, vector and half of it, so that a warp reads 512 bytes in a row.
__device__ void load_factors(const RowPassArgs& a, float4* table, int vectors) {
  const int width = 32 * a.warps;
  for (int i = static_cast<int>(threadIdx.x); i < vectors * 2 * width; i += static_cast<int>(blockDim.x)) {
    const int v = i / (2 * width), half = i / width % 2;
    const int c = (v * width + i % width) * kGroup + half * 4;
    const float* from = a.col_factors + c;
    table[i] = a.col_factors != nullptr && c < a.cols ? make_float4(from[0], from[1], from[2], from[3])
                                                      : make_float4(1.0F, 1.0F, 1.0F, 1.0F);
  }
}

// What one lane knows about its columns of the rows so far.
template <int kVectors>
struct ColumnState {
  float sum[kVectors][kGroup] = {};
  float max[kVectors][kGroup] = {};
};

template <typename T>
__device__ __forceinline__ Raw8<T> times_slope(const Raw8<T>& dy, const Raw8<T>& x) {
  float product[kGroup];
#pragma unroll
  for (int j = 0; j < kGroup; ++j) product[j] = element(dy, j) * slope_of_gelu(element(x, j));
  return pack8<T>(product);
}

// Counts eight elements in and gives their products with the column factors; returns the largest of these.
template <typename T>
__device__ __forceinline__ float take(const Raw8<T>& g, const Raw8<float>& factors, float row_factor,
                                      float (&sum)[kGroup], float (&col_max)[kGroup], float (&product)[kGroup]) {
  float largest[2] = {0.0F, 0.0F};  // two chains: one would be waited for
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    const float value = element(g, j);
    sum[j] += value;
    col_max[j] = max_magnitude(col_max[j], value * row_factor);
    product[j] = value * element(factors, j);
    largest[j % 2] = max_magnitude(largest[j % 2], product[j]);
  }
  return max_magnitude(largest[0], largest[1]);
}

template <int kVectors>
__device__ __forceinline__ void draws_of_row(const RowPassArgs& a, std::uint64_t first, int width,
                                             Draws8 (&draws)[kVectors]) {
  if (a.paired) {
#pragma unroll
    for (int v = 0; v + 1 < kVectors; v += 2)
      draws_of_pair(a.row_keys, first + v * width, first + (v + 1) * width, draws[v], draws[v + 1]);
    if constexpr (kVectors % 2 == 1) draws[kVectors - 1] = draws_of(a.row_keys, first + (kVectors - 1) * width);
  } else {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) draws[v] = draws_of(a.row_keys, first + v * width);
  }
}

// at: of the lane's first element, in the dense matrix.
template <bool kStochastic, int kVectors>
__device__ __forceinline__ void write_codes(const RowPassArgs& a, const Place& place, std::int64_t at, float scale,
                                            const float (&product)[kVectors][kGroup]) {
  const float inverse = __frcp_rn(scale);
  const std::uint32_t keep = scale == scale ? ~0U : 0U;
  Draws8 draws[kVectors] = {};
  if constexpr (kStochastic) draws_of_row(a, static_cast<std::uint64_t>(at) / kGroup, place.width, draws);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    std::uint32_t code[kGroup];
#pragma unroll
    for (int j = 0; j < kGroup; ++j) code[j] = rounded_code<kStochastic>(product[v][j] * inverse, draws[v], j);
    const uint2 packed = pack_codes<kStochastic>(code);
    if (v < place.vectors)
      *reinterpret_cast<uint2*>(a.codes + at + v * place.width * kGroup) = make_uint2(packed.x & keep, packed.y & keep);
  }
}

// The groups' sums and maxima, joined in order. scratch: [groups, vectors * width * 8].
template <int kVectors>
__device__ void finish_strip(const RowPassArgs& a, const Place& place, const ColumnState<kVectors>& state,
                             float* scratch) {
  const int pitch = kVectors * place.width * kGroup;
  const auto spread = [&](const float(&values)[kVectors][kGroup]) {
    __syncthreads();
#pragma unroll
    for (int v = 0; v < kVectors; ++v) store8(scratch + place.group * pitch + place.column(v), pack8<float>(values[v]));
    __syncthreads();
  };
  if (a.partials != nullptr) {
    spread(state.sum);
    for (int c = static_cast<int>(threadIdx.x); c < a.cols; c += static_cast<int>(blockDim.x)) {
      float total = scratch[c];
      for (int g = 1; g < place.groups; ++g) total += scratch[g * pitch + c];
      a.partials[static_cast<std::int64_t>(blockIdx.x) * a.cols + c] = total;
    }
  }
  if (a.max_bits == nullptr) return;
  spread(state.max);
  for (int c = static_cast<int>(threadIdx.x); c < a.cols; c += static_cast<int>(blockDim.x)) {
    float most = scratch[c];
    for (int g = 1; g < place.groups; ++g) most = max_magnitude(most, scratch[g * pitch + c]);
    atomicMax(a.max_bits + c, __float_as_uint(most));  // a maximum of integers is the same in every order
  }
}

// A block reads a strip of rows, each of its groups one row in `groups`; a lane keeps its columns from row to row.
template <typename T, bool kGelu, bool kStochastic, int kVectors>
__global__ void __launch_bounds__(kMaxThreads, 1) gradient_rows_kernel(const __grid_constant__ RowPassArgs a) {
  using Rows = Ring<T, kGelu, kVectors>;
  extern __shared__ uint4 shared[];
  __shared__ std::uint32_t slots[2][kMaxWarps];
  const Place place(a.warps, a.cols);
  Rows ring(shared);
  auto* table = reinterpret_cast<float4*>(shared + Rows::kBytesPerThread / 16 * blockDim.x);
  const unsigned table_address = shared_address(table + place.lane);
  load_factors(a, table, kVectors);
  __syncthreads();

  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * a.strip_rows;
  const int rows = static_cast<int>(begin + a.strip_rows < a.rows ? a.strip_rows : a.rows - begin);  // of the strip
  const T* from[kVectors];
  int step[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const Column<T> column(a.g, v < place.vectors ? place.column(v) : 0);
    from[v] = column.row(begin + place.group);
    step[v] = static_cast<int>(column.stride) * place.groups;
    asm volatile("" : "+r"(step[v]));  // or the compiler works it out again, part by part, for every row
  }
  std::int64_t at = (begin + place.group) * a.cols + place.column(0);  // of the dense matrices
  const std::int64_t at_step = static_cast<std::int64_t>(place.groups) * a.cols;
  const T* from_x = static_cast<const T*>(a.x) + at;
  const auto fetch = [&](int row) {
    if (row < rows) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (v >= place.vectors) continue;
        ring.copy(0, v, from[v]);
        if constexpr (kGelu) ring.copy(1, v, from_x + v * place.width * kGroup);
      }
    }
    ring.filled();
#pragma unroll
    for (int v = 0; v < kVectors; ++v) from[v] += step[v];
    if constexpr (kGelu) from_x += at_step;
  };
#pragma unroll
  for (int s = 0; s + 1 < Rows::kStages; ++s) fetch(place.group + s * place.groups);

  const auto row_factor_of = [&](int row) {
    return a.row_factors != nullptr && row < rows ? a.row_factors[begin + row] : 1.0F;
  };
  ColumnState<kVectors> state;
  float next_factor = row_factor_of(place.group);
  int turn = 0;
  for (int row = place.group; row < rows; row += place.groups, at += at_step, turn ^= 1) {
    const float row_factor = next_factor;
    next_factor = row_factor_of(row + place.groups);
    Rows::wait();
    fetch(row + (Rows::kStages - 1) * place.groups);
    float product[kVectors][kGroup], row_max = 0.0F;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      Raw8<T> g{};
      if (v < place.vectors) {
        g = ring.read(0, v);
        if constexpr (kGelu) {
          g = times_slope(g, ring.read(1, v));
          store8(static_cast<T*>(a.gelu_gradient) + at + v * place.width * kGroup, g);
        }
      }
      const unsigned factors = table_address + static_cast<unsigned>(2 * v * place.width) * 16;
      const Raw8<float> col_factors{as_floats(read_shared(factors)),
                                    as_floats(read_shared(factors + static_cast<unsigned>(place.width) * 16))};
      row_max = max_magnitude(row_max, take(g, col_factors, row_factor, state.sum[v], state.max[v], product[v]));
    }
    ring.was_read();
    if (a.codes == nullptr) continue;
    const std::uint32_t bits = group_max(__float_as_uint(row_max), place, slots[turn]);
    const float scale = scale_of_max_bits(bits, a.row_floor, a.row_q_max);
    if (place.lane == 0) a.row_scales[begin + row] = scale;
    write_codes<kStochastic>(a, place, at, scale, product);
  }
  wait_for_all_own_copies();
  finish_strip(a, place, state, reinterpret_cast<float*>(shared));
}

// The fewest idle lanes; among equals the most elements a lane, hence the fewest warps to wait for.
struct RowSplit {
  int warps = 0, vectors = 0;
};
RowSplit split_row(std::int64_t cols) {
  const auto units = static_cast<int>((cols + 255) / 256);  // one warp's vector
  RowSplit best;
  for (int v = kMaxVectors; v >= std::min(2, units); --v) {
    const int w = (units + v - 1) / v;
    if (w <= kMaxWarps && (best.warps == 0 || w * v < best.warps * best.vectors)) best = {w, v};
  }
  return best;
}

template <typename T, bool kGelu, bool kStochastic, int kVectors>
void launch(const RowPassArgs& a, unsigned strips, cudaStream_t stream) {
  const auto threads = static_cast<unsigned>(kMaxWarps / a.warps * a.warps * 32);
  const std::size_t bytes =
      Ring<T, kGelu, kVectors>::kBytesPerThread * threads + static_cast<std::size_t>(a.warps) * kVectors * 256 * 4;
  const auto kernel = gradient_rows_kernel<T, kGelu, kStochastic, kVectors>;
  QAT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  kernel<<<strips, threads, bytes, stream>>>(a);
  QAT_CUDA_CHECK(cudaGetLastError());
}

template <typename T, bool kGelu, bool kStochastic>
void launch(const RowPassArgs& a, int vectors, unsigned strips, cudaStream_t stream) {
  switch (vectors) {
    case 1:
      return launch<T, kGelu, kStochastic, 1>(a, strips, stream);
    case 2:
      return launch<T, kGelu, kStochastic, 2>(a, strips, stream);
    default:
      return launch<T, kGelu, kStochastic, 3>(a, strips, stream);
  }
}

template <typename T>
void launch(const RowPassArgs& a, bool stochastic, int vectors, unsigned strips, cudaStream_t stream) {
  if (a.gelu_gradient != nullptr)
    stochastic ? launch<T, true, true>(a, vectors, strips, stream) : launch<T, true, false>(a, vectors, strips, stream);
  else
    stochastic ? launch<T, false, true>(a, vectors, strips, stream)
               : launch<T, false, false>(a, vectors, strips, stream);
}

}  // namespace

bool takes_gradient_rows(const GradientColumns& g) {
  for (int p = 0; p < g.count; ++p)
    if (g.parts[static_cast<std::size_t>(p)].stride > kMaxStride) return false;
  return has_vector_rows(g) && cols_of(g) <= kMaxCols && cols_of(g) > 0 && rows_of(g) > 0;
}

void gradient_rows_cuda(const Exec& exec, const GradientRows& job, const ColumnStatistics& statistics) {
  const auto& [g, x, gelu, encoding, out] = job;
  const std::int64_t rows = rows_of(g), cols = cols_of(g);
  const RowSplit split = split_row(cols);
  const std::int64_t strip_rows = (rows + kMultiprocessors - 1) / kMultiprocessors;
  const std::int64_t strips = (rows + strip_rows - 1) / strip_rows;
  const bool with_sums = !statistics.sums.empty(), with_scales = !statistics.scales.empty();
  const DeviceScratch<float> partials(exec, with_sums ? strips * cols : 0);
  const DeviceScratch<std::uint32_t> max_bits(exec, with_scales ? cols : 0);
  const auto stream = cuda_stream(exec);
  if (with_scales)
    QAT_CUDA_CHECK(cudaMemsetAsync(max_bits.get(), 0, static_cast<std::size_t>(cols) * sizeof(std::uint32_t), stream));
  const EncodeOptions& options = encoding.row_options;
  const bool with_rows = !out.rows.empty();
  const RowPassArgs a{.g = side_by_side(g),
                      .x = x.data,
                      .gelu_gradient = gelu.data,
                      .rows = rows,
                      .strip_rows = strip_rows,
                      .cols = static_cast<int>(cols),
                      .warps = split.warps,
                      .row_factors = encoding.row_factors.empty() ? nullptr : encoding.row_factors.data(),
                      .col_factors = encoding.col_factors.empty() ? nullptr : encoding.col_factors.data(),
                      .row_floor = options.amax_floor,
                      .row_q_max = with_rows ? static_cast<float>(options.width.q_max()) : 1.0F,
                      .row_keys = rounding_keys(options.key),
                      .paired = cols % kRoundingDraws == 0,
                      .codes = with_rows ? out.rows.data : nullptr,
                      .row_scales = out.row_scales.data(),
                      .max_bits = max_bits.get(),
                      .partials = partials.get()};
  const bool stochastic = with_rows && options.rounding == Rounding::kStochastic;
  const auto blocks = static_cast<unsigned>(strips);
  if (g.parts[0].dtype == DType::kBFloat16)
    launch<__nv_bfloat16>(a, stochastic, split.vectors, blocks, stream);
  else
    launch<float>(a, stochastic, split.vectors, blocks, stream);
  if (with_sums || with_scales) finish_columns_cuda(exec, cols, partials.get(), strips, max_bits.get(), statistics);
}

}  // namespace qat::kernels
