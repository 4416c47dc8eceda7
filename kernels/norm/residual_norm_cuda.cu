#include "kernels/common/code_tile.cuh"
#include "kernels/common/codes.cuh"
#include "kernels/common/float_vectors.cuh"
#include "kernels/common/row_group.cuh"
#include "kernels/norm/residual_norm_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kCtaWarps = 8;

// A warp holds a whole row where its registers allow: no barrier, and a warp's loads are all of a row's.
template <typename T>
RowShape shape_of(std::int64_t cols) {
  constexpr int kMaxVectors = 4;  // of a row that several warps hold
  constexpr int kMaxWarpVectors = sizeof(T) == 2 ? 7 : kMaxVectors;
  if (cols <= 256 * kMaxWarpVectors) return {1, static_cast<int>((cols + 255) / 256)};
  return row_shape(cols, kMaxVectors);
}

// Vectors 0, 2, 4, ... and 1, 3, 5, ... of a long row are summed apart: as by two warps that take turns.
template <int kVectors>
constexpr int kParts = kVectors <= 4 ? 1 : 2;

__device__ __forceinline__ float row_sum(RowGroup& group, const float (&parts)[1]) { return group.sum(parts[0]); }
__device__ __forceinline__ float row_sum(RowGroup& group, const float (&parts)[2]) {
  const float2 sums = group.sum(make_float2(parts[0], parts[1]));
  return sums.x + sums.y;
}

template <typename T>
struct ForwardArgs {
  const T* x;
  const T* delta;  // null: none
  T* residual;     // null: not wanted, as the next three
  T* normed;
  std::int8_t* codes;
  std::int8_t* codes_transposed;
  const float* weight;
  const float* bias;
  float* code_scales;
  float* mean;
  float* rstd;
  std::int64_t rows;
  int cols;
  float eps, amax_floor, q_max;
};

struct Tiling {
  int warps;      // a row
  int tile_rows;  // a CTA
  int pitch;
};

// CTAs of a multiprocessor: as many as the registers allow without spilling.
template <typename T, int kVectors>
constexpr int kCtas = sizeof(T) == 4 || kVectors > 4 ? 2 : (kVectors == 4 ? 3 : 4);

// kOneWarp: a warp holds a row, which the compiler then knows.
template <typename T, int kVectors, bool kOneWarp>
__global__ __launch_bounds__(kCtaWarps * 32, kCtas<T, kVectors>) void residual_norm_kernel(ForwardArgs<T> args,
                                                                                           Tiling tiling) {
  extern __shared__ __align__(128) unsigned char tile_bytes[];
  __shared__ unsigned slots[RowGroup::kSlots];
  RowGroup group(slots, kOneWarp ? 1 : tiling.warps);
  const CodeTile tile{tile_bytes, tiling.pitch, tiling.tile_rows == 64 ? 2 : 1};
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * tiling.tile_rows;
  const int tile_rows = static_cast<int>(min(static_cast<std::int64_t>(tiling.tile_rows), args.rows - row0));
  const bool wants_codes = args.codes_transposed != nullptr || args.codes != nullptr;

  const int turns = (tile_rows + group.count() - 1) / group.count();
  for (int turn = 0; turn < turns; ++turn) {
    const int i = turn * group.count() + group.index();
    const int cols = i < tile_rows ? args.cols : 0;  // 0: no row is left for this group
    const std::int64_t row = row0 + i;
    const std::int64_t base = row * args.cols;
    Raw8<T> kept[kVectors];  // r, later y, in the matrix's dtype: rounding loses nothing more
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      kept[v] = {};
      if (group.column(v) < cols) kept[v] = load8(args.x + base + group.column(v));
    }
    if (args.delta != nullptr) {
      Raw8<T> added[kVectors];
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        added[v] = {};
        if (group.column(v) < cols) added[v] = load8(args.delta + base + group.column(v));
      }
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        float a[8], b[8];
        unpack8(kept[v], a);
        unpack8(added[v], b);
#pragma unroll
        for (int e = 0; e < 8; ++e) a[e] += b[e];
        kept[v] = pack8<T>(a);
      }
    }
    float sums[kParts<kVectors>] = {};
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (args.residual != nullptr && group.column(v) < cols) store8(args.residual + base + group.column(v), kept[v]);
      float r[8];
      unpack8(kept[v], r);
      sums[v % kParts<kVectors>] += ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    }
    const float mean = row_sum(group, sums) / static_cast<float>(args.cols);
    float squares[kParts<kVectors>] = {};
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (group.column(v) >= cols) continue;
      float r[8];
      unpack8(kept[v], r);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        float& part = squares[v % kParts<kVectors>];
        part = __fmaf_rn(r[e] - mean, r[e] - mean, part);
      }
    }
    const float rstd = 1.0F / sqrtf(row_sum(group, squares) / static_cast<float>(args.cols) + args.eps);
    if (group.lane() == 0 && cols > 0) {
      args.mean[row] = mean;
      args.rstd[row] = rstd;
    }
    LargestMagnitude<T> largest;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int c = group.column(v);
      if (c >= cols) continue;
      float y[8], weight[8], bias[8];
      unpack8(kept[v], y);
      unpack8(load8(args.weight + c), weight);
      unpack8(load8(args.bias + c), bias);
#pragma unroll
      for (int e = 0; e < 8; ++e) y[e] = (y[e] - mean) * rstd * weight[e] + bias[e];
      kept[v] = pack8<T>(y);
      if (args.normed != nullptr) store8(args.normed + base + c, kept[v]);
      largest.add(kept[v]);
    }
    if (!wants_codes) continue;
    const RowCode code(group.max(largest.bits()), args.amax_floor, args.q_max);
    if (group.lane() == 0 && cols > 0) args.code_scales[row] = code.scale;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int c = group.column(v);
      if (c >= cols) continue;
      float y[8];
      unpack8(kept[v], y);
      const uint2 codes = code.eight(y);
      if (args.codes != nullptr) *reinterpret_cast<uint2*>(args.codes + base + c) = codes;
      if (args.codes_transposed != nullptr) tile.put(i, c, codes);
    }
  }
  if (args.codes_transposed == nullptr) return;
  __syncthreads();
  tile.write_transposed(args.codes_transposed, args.rows, row0, tile_rows, args.cols);
}

// Any width and alignment: a CTA a row, which it reads once for each statistic.
template <typename T>
__global__ __launch_bounds__(kCtaWarps * 32) void residual_norm_any_kernel(ForwardArgs<T> args) {
  __shared__ unsigned slots[RowGroup::kSlots];
  RowGroup cta(slots, kCtaWarps);
  const int cols = args.cols;
  const int first = static_cast<int>(threadIdx.x);
  const int step = static_cast<int>(blockDim.x);
  const std::int64_t row = blockIdx.x;
  const std::int64_t base = row * cols;
  float sum = 0.0F;
  for (int c = first; c < cols; c += step) {
    T r = args.x[base + c];
    if (args.delta != nullptr) r = from_float<T>(to_float(r) + to_float(args.delta[base + c]));
    if (args.residual != nullptr) args.residual[base + c] = r;
    sum += to_float(r);
  }
  // Every thread reads back only what it wrote.
  const T* r = args.residual != nullptr ? args.residual : args.x;
  const float mean = cta.sum(sum) / static_cast<float>(cols);
  float squares = 0.0F;
  for (int c = first; c < cols; c += step) {
    const float away = to_float(r[base + c]) - mean;
    squares = __fmaf_rn(away, away, squares);
  }
  const float rstd = 1.0F / sqrtf(cta.sum(squares) / static_cast<float>(cols) + args.eps);
  const auto normed = [&](int c) {
    return from_float<T>((to_float(r[base + c]) - mean) * rstd * args.weight[c] + args.bias[c]);
  };
  unsigned largest = 0;
  for (int c = first; c < cols; c += step) largest = max(largest, magnitude_bits(to_float(normed(c))));
  const RowCode code(cta.max(largest), args.amax_floor, args.q_max);
  if (first == 0) {
    args.mean[row] = mean;
    args.rstd[row] = rstd;
    if (args.code_scales != nullptr) args.code_scales[row] = code.scale;
  }
  for (int c = first; c < cols; c += step) {
    const T y = normed(c);
    const auto k = static_cast<std::int8_t>(code.one(to_float(y)));
    if (args.normed != nullptr) args.normed[base + c] = y;
    if (args.codes != nullptr) args.codes[base + c] = k;
    if (args.codes_transposed != nullptr) args.codes_transposed[c * args.rows + row] = k;
  }
}

template <typename T, int kVectors, bool kOneWarp>
void launch(const Exec& exec, const ForwardArgs<T>& args, int warps) {
  const bool transposed = args.codes_transposed != nullptr;
  const int tile_rows =
      transposed ? CodeTile::rows_for(args.rows, args.cols) : rows_of_cta(args.rows, kCtaWarps / warps);
  const Tiling tiling{warps, tile_rows, CodeTile::pitch_of(args.cols)};
  const int bytes = transposed ? tile_rows * tiling.pitch : 0;
  const auto kernel = residual_norm_kernel<T, kVectors, kOneWarp>;
  allow_shared_memory(kernel, bytes);
  const auto ctas = static_cast<unsigned>((args.rows + tile_rows - 1) / tile_rows);
  const int threads = kCtaWarps / warps * warps * 32;
  kernel<<<ctas, threads, bytes, cuda_stream(exec)>>>(args, tiling);
  QAT_CUDA_CHECK(cudaGetLastError());
}

template <typename T>
void launch_one_warp(const Exec& exec, const ForwardArgs<T>& args, int vectors) {
  if constexpr (sizeof(T) == 2) {  // shape_of gives more than four vectors to rows of two-byte elements alone
    if (vectors == 5) return launch<T, 5, true>(exec, args, 1);
    if (vectors == 6) return launch<T, 6, true>(exec, args, 1);
    if (vectors == 7) return launch<T, 7, true>(exec, args, 1);
  }
  switch (vectors) {
    case 1:
      return launch<T, 1, true>(exec, args, 1);
    case 2:
      return launch<T, 2, true>(exec, args, 1);
    case 3:
      return launch<T, 3, true>(exec, args, 1);
    default:
      return launch<T, 4, true>(exec, args, 1);
  }
}

template <typename T>
void launch_shape(const Exec& exec, const ForwardArgs<T>& args, RowShape shape) {
  if (shape.warps == 1) return launch_one_warp<T>(exec, args, shape.vectors);
  switch (shape.vectors) {  // row_shape gives several warps two vectors or more
    case 2:
      return launch<T, 2, false>(exec, args, shape.warps);
    case 3:
      return launch<T, 3, false>(exec, args, shape.warps);
    default:
      return launch<T, 4, false>(exec, args, shape.warps);
  }
}

template <typename T>
void run(const Exec& exec, ConstFloatMatrix x, ConstFloatMatrix delta, const NormParameters& parameters,
         const EncodeOptions& options, const ResidualNormOut& out) {
  const bool wants_codes = !out.codes.codes.empty() || !out.codes.codes_transposed.empty();
  const auto given = [](const auto& m) { return m.empty() ? nullptr : m.data; };
  const ForwardArgs<T> args{static_cast<const T*>(x.data),
                            static_cast<const T*>(given(delta)),
                            static_cast<T*>(given(out.residual)),
                            static_cast<T*>(given(out.normed)),
                            given(out.codes.codes),
                            given(out.codes.codes_transposed),
                            parameters.weight.data(),
                            parameters.bias.data(),
                            wants_codes ? out.code_scales.data() : nullptr,
                            out.mean.data(),
                            out.rstd.data(),
                            x.rows,
                            static_cast<int>(x.cols),
                            parameters.eps,
                            options.amax_floor,
                            wants_codes ? static_cast<float>(options.width.q_max()) : 1.0F};
  const RowShape shape = shape_of<T>(x.cols);
  const bool vectors = fits_vectors(args.x, x.cols) && fits_vectors(args.delta, x.cols) &&
                       fits_vectors(args.residual, x.cols) && fits_vectors(args.normed, x.cols) &&
                       fits_vectors(args.codes, x.cols) && fits_vectors(args.weight, x.cols) &&
                       fits_vectors(args.bias, x.cols) && shape.warps > 0 &&
                       (args.codes_transposed == nullptr || 32 * CodeTile::pitch_of(x.cols) <= CodeTile::kMaxBytes);
  if (!vectors) {
    residual_norm_any_kernel<T><<<static_cast<unsigned>(x.rows), kCtaWarps * 32, 0, cuda_stream(exec)>>>(args);
    QAT_CUDA_CHECK(cudaGetLastError());
    return;
  }
  launch_shape<T>(exec, args, shape);
}

}  // namespace

void residual_norm_cuda(const Exec& exec, ConstFloatMatrix x, ConstFloatMatrix delta, const NormParameters& parameters,
                        const EncodeOptions& options, const ResidualNormOut& out) {
  if (x.size() == 0) return;
  if (x.dtype == DType::kBFloat16)
    run<__nv_bfloat16>(exec, x, delta, parameters, options, out);
  else
    run<float>(exec, x, delta, parameters, options, out);
}

}  // namespace qat::kernels
