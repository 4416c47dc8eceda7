#include <algorithm>

#include "kernels/activation/gelu_cuda.h"
#include "kernels/activation/gelu_math.cuh"
#include "kernels/common/code_tile.cuh"
#include "kernels/common/codes.cuh"
#include "kernels/common/float_vectors.cuh"
#include "kernels/common/multiprocessors.h"
#include "kernels/common/row_group.cuh"

namespace qat::kernels {
namespace {

constexpr int kMaxVectors = 5;
constexpr int kAnyWarps = 8;  // of the kernel for any width
// A multiprocessor runs 32 warps of 64 registers a lane: two CTAs of 16 where it has room for two tiles of codes.
constexpr int kCtaWarps = 16;
template <typename T>
constexpr int kMaxCtaWarps = sizeof(T) == 2 ? 32 : kCtaWarps;

template <typename T>
struct GeluEncodeArgs {
  const T* x;
  T* values;  // null: not wanted, as the next two
  std::int8_t* codes;
  std::int8_t* codes_transposed;
  float* scales;
  std::int64_t rows;
  int cols;
  float amax_floor, q_max;
  int warps;      // a row
  int tile_rows;  // a CTA
  int pitch;
};

// A group of warps holds a row as gelu(x) in the matrix's dtype while it reads the next one, the first of the next tile
// too.
template <typename T, int kVectors>
__global__ __launch_bounds__(kMaxCtaWarps<T> * 32, 1) void gelu_encode_kernel(GeluEncodeArgs<T> args) {
  extern __shared__ __align__(128) unsigned char tile_bytes[];
  __shared__ unsigned slots[RowGroup::kSlots];
  RowGroup group(slots, args.warps);
  const CodeTile tile{tile_bytes, args.pitch, args.tile_rows == 64 ? 2 : 1};
  const std::int64_t tile_step = static_cast<std::int64_t>(gridDim.x) * args.tile_rows;

  Raw8<T> next[kVectors];
  const auto read = [&](std::int64_t row0, int i) {
    const std::int64_t row = row0 + i;
    const int cols = i < args.tile_rows && row < args.rows ? args.cols : 0;
    const T* from = args.x + row * args.cols;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int c = group.column(v);
      next[v] = {};
      if (c < cols) next[v] = load8(from + c);
    }
  };
  std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * args.tile_rows;
  read(row0, group.index());
  for (; row0 < args.rows; row0 += tile_step) {
    const int tile_rows = static_cast<int>(min(static_cast<std::int64_t>(args.tile_rows), args.rows - row0));
    for (int first = 0; first < tile_rows; first += group.count()) {
      const int i = first + group.index();
      Raw8<T> held[kVectors];
#pragma unroll
      for (int v = 0; v < kVectors; ++v) held[v] = next[v];
      const bool more = first + group.count() < tile_rows;
      read(more ? row0 : row0 + tile_step, more ? i + group.count() : group.index());
      LargestMagnitude<T> largest;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {  // lanes past the row hold zeros, which gelu leaves
        float y[8];
        unpack8(held[v], y);
#pragma unroll
        for (int e = 0; e < 8; ++e) y[e] = gelu_value(y[e]);
        held[v] = pack8<T>(y);
        largest.add(held[v]);
      }
      const RowCode code(group.max(largest.bits()), args.amax_floor, args.q_max);
      const int cols = i < tile_rows ? args.cols : 0;
      const std::int64_t row = row0 + i;
      if (group.lane() == 0 && cols > 0) args.scales[row] = code.scale;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int c = group.column(v);
        if (c >= cols) continue;
        float y[8];
        if (args.values != nullptr) store8(args.values + row * args.cols + c, held[v]);
        unpack8(held[v], y);
        const uint2 codes = code.eight(y);
        if (args.codes != nullptr) *reinterpret_cast<uint2*>(args.codes + row * args.cols + c) = codes;
        if (args.codes_transposed != nullptr) tile.put(i, c, codes);
      }
    }
    if (args.codes_transposed == nullptr) continue;
    __syncthreads();
    tile.write_transposed(args.codes_transposed, args.rows, row0, tile_rows, args.cols);
    __syncthreads();
  }
}

// Any width and alignment: a CTA a row, which it reads twice.
template <typename T>
__global__ __launch_bounds__(kAnyWarps * 32) void gelu_encode_any_kernel(GeluEncodeArgs<T> args) {
  __shared__ unsigned slots[RowGroup::kSlots];
  RowGroup cta(slots, kAnyWarps);
  const int first = static_cast<int>(threadIdx.x);
  const int step = static_cast<int>(blockDim.x);
  const std::int64_t row = blockIdx.x;
  const std::int64_t base = row * args.cols;
  const auto value = [&](int c) { return to_float(from_float<T>(gelu_value(to_float(args.x[base + c])))); };
  unsigned largest = 0;
  for (int c = first; c < args.cols; c += step) largest = max(largest, magnitude_bits(value(c)));
  const RowCode code(cta.max(largest), args.amax_floor, args.q_max);
  if (first == 0) args.scales[row] = code.scale;
  for (int c = first; c < args.cols; c += step) {
    const auto k = static_cast<std::int8_t>(code.one(value(c)));
    if (args.values != nullptr) args.values[base + c] = from_float<T>(value(c));
    if (args.codes != nullptr) args.codes[base + c] = k;
    if (args.codes_transposed != nullptr) args.codes_transposed[c * args.rows + row] = k;
  }
}

template <typename T, int kVectors>
void launch(const Exec& exec, const GeluEncodeArgs<T>& args) {
  const int bytes = args.codes_transposed == nullptr ? 0 : args.tile_rows * args.pitch;
  const auto kernel = gelu_encode_kernel<T, kVectors>;
  allow_shared_memory(kernel, bytes);
  const bool alone = bytes > CodeTile::kMaxBytesOfTwo;  // one CTA a multiprocessor
  const int warps = alone ? kMaxCtaWarps<T> : kCtaWarps;
  std::int64_t ctas = (args.rows + args.tile_rows - 1) / args.tile_rows;
  if (alone) ctas = std::min<std::int64_t>(ctas, multiprocessors());  // each takes several tiles
  const int threads = warps / args.warps * args.warps * 32;
  kernel<<<static_cast<unsigned>(ctas), threads, bytes, cuda_stream(exec)>>>(args);
  QAT_CUDA_CHECK(cudaGetLastError());
}

template <typename T>
void run(const Exec& exec, ConstFloatMatrix x, const EncodeOptions& options, const CodesOut& out,
         std::span<float> scales, FloatMatrix values) {
  const auto given = [](const auto& m) { return m.empty() ? nullptr : m.data; };
  const RowShape shape = row_shape(x.cols, kMaxVectors);
  const bool transposed = !out.codes_transposed.empty();
  const GeluEncodeArgs<T> args{
      static_cast<const T*>(x.data),
      static_cast<T*>(given(values)),
      given(out.codes),
      given(out.codes_transposed),
      scales.data(),
      x.rows,
      static_cast<int>(x.cols),
      options.amax_floor,
      static_cast<float>(options.width.q_max()),
      shape.warps,
      transposed ? CodeTile::rows_for(x.rows, x.cols) : rows_of_cta(x.rows, kCtaWarps / std::max(1, shape.warps)),
      CodeTile::pitch_of(x.cols)};
  const bool vectors = fits_vectors(args.x, x.cols) && fits_vectors(args.values, x.cols) &&
                       fits_vectors(args.codes, x.cols) && shape.warps > 0 &&
                       (!transposed || 32 * args.pitch <= CodeTile::kMaxBytes);
  if (!vectors) {
    gelu_encode_any_kernel<T><<<static_cast<unsigned>(x.rows), kAnyWarps * 32, 0, cuda_stream(exec)>>>(args);
    QAT_CUDA_CHECK(cudaGetLastError());
    return;
  }
  switch (shape.vectors) {
    case 1:
      return launch<T, 1>(exec, args);
    case 2:
      return launch<T, 2>(exec, args);
    case 3:
      return launch<T, 3>(exec, args);
    case 4:
      return launch<T, 4>(exec, args);
    default:
      return launch<T, 5>(exec, args);
  }
}

}  // namespace

void gelu_encode_cuda(const Exec& exec, ConstFloatMatrix x, const EncodeOptions& options, const CodesOut& out,
                      std::span<float> scales, FloatMatrix values) {
  if (x.size() == 0) return;
  if (x.dtype == DType::kBFloat16)
    run<__nv_bfloat16>(exec, x, options, out, scales, values);
  else
    run<float>(exec, x, options, out, scales, values);
}

}  // namespace qat::kernels
