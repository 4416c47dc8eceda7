// dx = rstd * (w dy - mean(w dy) - h mean(w dy h)) + dresidual_in,   h = (r - mean) rstd
// dweight = sum over rows of dy h, dbias = sum of dy: each CTA sums a strip of rows into a row of partial sums, and a
// second kernel adds those.
#include "kernels/common/device_scratch.h"
#include "kernels/common/float_vectors.cuh"
#include "kernels/common/row_group.cuh"
#include "kernels/norm/residual_norm_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kMaxVectors = 3;  // 48 registers of sums a lane; more would leave one CTA a multiprocessor
constexpr int kCtaWarps = 8;
// Two CTAs for each multiprocessor of an H100. A constant, because the order of addition hangs on it.
constexpr std::int64_t kMaxStrips = 264;

template <typename T>
struct BackwardArgs {
  const T* dy;
  const T* residual;
  const T* past;  // null: none
  T* dx;          // may be past
  const float* mean;
  const float* rstd;
  const float* weight;
  float* partial;  // [strips, 2, cols]: of dweight, of dbias; null: not wanted
  std::int64_t rows;
  std::int64_t strip_rows;
  int cols;
};

// What a lane holds of a row.
template <typename T, int kVectors>
struct RowPiece {
  Raw8<T> dy[kVectors] = {}, residual[kVectors] = {}, past[kVectors] = {};
  float mean = 0.0F, rstd = 0.0F;
  bool given;  // false: no row is left for this group

  __device__ RowPiece(const BackwardArgs<T>& args, const RowGroup& group, std::int64_t row, std::int64_t end)
      : given(row < end) {
    if (!given) return;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int c = group.column(v);
      if (c >= args.cols) continue;
      dy[v] = load8(args.dy + row * args.cols + c);
      residual[v] = load8(args.residual + row * args.cols + c);
      if (args.past != nullptr) past[v] = load8(args.past + row * args.cols + c);
    }
    mean = args.mean[row];
    rstd = args.rstd[row];
  }
};

// Moves a row into the L2 cache.
template <typename T, int kVectors>
__device__ __forceinline__ void fetch(const BackwardArgs<T>& args, const RowGroup& group, std::int64_t row,
                                      std::int64_t end) {
  const auto fetch_line = [](const T* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); };
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int c = group.column(v);
    if (row >= end || c >= args.cols) continue;
    fetch_line(args.dy + row * args.cols + c);
    fetch_line(args.residual + row * args.cols + c);
    if (args.past != nullptr) fetch_line(args.past + row * args.cols + c);
  }
}

// A group reads its next row before it works on this one: where the registers allow, into them; else groups that wait
// for each other at least have it brought nearer. kOneWarp: a warp holds a row, which the compiler then knows.
template <typename T, int kVectors, bool kOneWarp>
__global__ __launch_bounds__(kCtaWarps * 32, sizeof(T) == 2 ? 2 : 1) void backward_kernel(BackwardArgs<T> args,
                                                                                          int warps) {
  constexpr bool kReadAhead = kVectors <= 2;
  using Piece = RowPiece<T, kVectors>;
  extern __shared__ __align__(16) float sums[];  // [2, cols]
  __shared__ unsigned slots[RowGroup::kSlots];
  RowGroup group(slots, kOneWarp ? 1 : warps);
  const int cols = args.cols;
  const float per_col = 1.0F / static_cast<float>(cols);
  const std::int64_t begin = blockIdx.x * args.strip_rows;
  const std::int64_t end = min(begin + args.strip_rows, args.rows);
  float dweight[kVectors][8] = {};
  float dbias[kVectors][8] = {};
  Piece next(args, group, kReadAhead ? begin + group.index() : end, end);
  for (std::int64_t first = begin; first < end; first += group.count()) {
    const std::int64_t row = first + group.index();
    const Piece piece = kReadAhead ? next : Piece(args, group, row, end);
    if constexpr (kReadAhead)
      next = Piece(args, group, row + group.count(), end);
    else if constexpr (!kOneWarp)
      fetch<T, kVectors>(args, group, row + group.count(), end);
    float2 along = {0.0F, 0.0F};  // of ones, of h
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int c = group.column(v);
      if (c >= cols || !piece.given) continue;
      float g[8], hat[8], weight[8];
      unpack8(piece.dy[v], g);
      unpack8(piece.residual[v], hat);
      unpack8(load8(args.weight + c), weight);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        hat[e] = (hat[e] - piece.mean) * piece.rstd;
        dweight[v][e] = __fmaf_rn(g[e], hat[e], dweight[v][e]);
        dbias[v][e] += g[e];
        const float scaled = weight[e] * g[e];
        along.x += scaled;
        along.y = __fmaf_rn(scaled, hat[e], along.y);
      }
    }
    along = group.sum(along);
    along.x *= per_col;
    along.y *= per_col;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int c = group.column(v);
      if (c >= cols || !piece.given) continue;
      float g[8], hat[8], weight[8], add[8];
      unpack8(piece.dy[v], g);
      unpack8(piece.residual[v], hat);
      unpack8(piece.past[v], add);
      unpack8(load8(args.weight + c), weight);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        hat[e] = (hat[e] - piece.mean) * piece.rstd;
        g[e] = __fmaf_rn(piece.rstd, __fmaf_rn(weight[e], g[e], -__fmaf_rn(hat[e], along.y, along.x)), add[e]);
      }
      store8(args.dx + row * cols + c, pack8<T>(g));
    }
  }
  if (args.partial == nullptr) return;
  for (int turn = 0; turn < group.count(); ++turn) {  // one group after the other: a fixed order
    if (group.index() == turn) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int c = group.column(v);
        if (c >= cols) continue;
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          sums[c + e] = turn == 0 ? dweight[v][e] : sums[c + e] + dweight[v][e];
          sums[cols + c + e] = turn == 0 ? dbias[v][e] : sums[cols + c + e] + dbias[v][e];
        }
      }
    }
    __syncthreads();
  }
  float* partial = args.partial + static_cast<std::int64_t>(blockIdx.x) * 2 * cols;
  for (int c = static_cast<int>(threadIdx.x); c < 2 * cols; c += static_cast<int>(blockDim.x)) partial[c] = sums[c];
}

// Any width and alignment: a CTA a row for dx, ...
template <typename T>
__global__ __launch_bounds__(kCtaWarps * 32) void backward_any_kernel(BackwardArgs<T> args) {
  __shared__ unsigned slots[RowGroup::kSlots];
  RowGroup cta(slots, kCtaWarps);
  const int cols = args.cols;
  const int first = static_cast<int>(threadIdx.x);
  const int step = static_cast<int>(blockDim.x);
  const std::int64_t base = static_cast<std::int64_t>(blockIdx.x) * cols;
  const float mean = args.mean[blockIdx.x];
  const float rstd = args.rstd[blockIdx.x];
  float2 along = {0.0F, 0.0F};
  for (int c = first; c < cols; c += step) {
    const float scaled = args.weight[c] * to_float(args.dy[base + c]);
    along.x += scaled;
    along.y += scaled * ((to_float(args.residual[base + c]) - mean) * rstd);
  }
  along = cta.sum(along);
  along.x /= static_cast<float>(cols);
  along.y /= static_cast<float>(cols);
  for (int c = first; c < cols; c += step) {
    const float scaled = args.weight[c] * to_float(args.dy[base + c]);
    const float hat = (to_float(args.residual[base + c]) - mean) * rstd;
    const float past = args.past == nullptr ? 0.0F : to_float(args.past[base + c]);
    args.dx[base + c] = from_float<T>(rstd * (scaled - along.x - hat * along.y) + past);
  }
}

// ... and a thread a column and strip for the sums.
template <typename T>
__global__ __launch_bounds__(128) void partial_any_kernel(BackwardArgs<T> args) {
  const int c = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (c >= args.cols) return;
  const std::int64_t begin = blockIdx.x * args.strip_rows;
  const std::int64_t end = min(begin + args.strip_rows, args.rows);
  float dweight = 0.0F;
  float dbias = 0.0F;
  for (std::int64_t row = begin; row < end; ++row) {
    const float g = to_float(args.dy[row * args.cols + c]);
    dweight += g * ((to_float(args.residual[row * args.cols + c]) - args.mean[row]) * args.rstd[row]);
    dbias += g;
  }
  float* partial = args.partial + static_cast<std::int64_t>(blockIdx.x) * 2 * args.cols;
  partial[c] = dweight;
  partial[args.cols + c] = dbias;
}

// partial: [strips, 2 * cols]. Eight lanes of strips a column, added in the order of the lanes.
constexpr int kLanes = 8;
__global__ __launch_bounds__(32 * kLanes) void add_partial_kernel(const float* partial, std::int64_t strips, int cols,
                                                                  float* dweight, float* dbias) {
  __shared__ float lanes[kLanes][32];
  const int c = static_cast<int>(blockIdx.x * 32 + threadIdx.x);
  float sum = 0.0F;
  if (c < 2 * cols) {
#pragma unroll 8
    for (std::int64_t strip = threadIdx.y; strip < strips; strip += kLanes) sum += partial[strip * 2 * cols + c];
  }
  lanes[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= 2 * cols) return;
  for (int lane = 1; lane < kLanes; ++lane) sum += lanes[lane][threadIdx.x];
  if (c < cols)
    dweight[c] = sum;
  else
    dbias[c - cols] = sum;
}

template <typename T, int kVectors, bool kOneWarp>
void launch(const Exec& exec, const BackwardArgs<T>& args, std::int64_t strips, int warps) {
  const int bytes = args.partial == nullptr ? 0 : 2 * args.cols * static_cast<int>(sizeof(float));
  const auto kernel = backward_kernel<T, kVectors, kOneWarp>;
  allow_shared_memory(kernel, bytes);
  const int threads = kCtaWarps / warps * warps * 32;
  kernel<<<static_cast<unsigned>(strips), threads, bytes, cuda_stream(exec)>>>(args, warps);
  QAT_CUDA_CHECK(cudaGetLastError());
}

template <typename T>
void launch_shape(const Exec& exec, const BackwardArgs<T>& args, std::int64_t strips, RowShape shape) {
  if (shape.warps > 1) {  // row_shape gives several warps two vectors or more
    if (shape.vectors == 2) return launch<T, 2, false>(exec, args, strips, shape.warps);
    return launch<T, 3, false>(exec, args, strips, shape.warps);
  }
  switch (shape.vectors) {
    case 1:
      return launch<T, 1, true>(exec, args, strips, 1);
    case 2:
      return launch<T, 2, true>(exec, args, strips, 1);
    default:
      return launch<T, 3, true>(exec, args, strips, 1);
  }
}

template <typename T>
void run_rows(const Exec& exec, const BackwardArgs<T>& args, std::int64_t strips) {
  const RowShape shape = row_shape(args.cols, kMaxVectors);
  const bool vectors = fits_vectors(args.dy, args.cols) && fits_vectors(args.residual, args.cols) &&
                       fits_vectors(args.past, args.cols) && fits_vectors(args.dx, args.cols) &&
                       fits_vectors(args.weight, args.cols) && shape.warps > 0;
  if (!vectors) {
    if (args.partial != nullptr) {
      const dim3 grid(static_cast<unsigned>(strips), static_cast<unsigned>((args.cols + 127) / 128));
      partial_any_kernel<T><<<grid, 128, 0, cuda_stream(exec)>>>(args);
      QAT_CUDA_CHECK(cudaGetLastError());
    }
    backward_any_kernel<T><<<static_cast<unsigned>(args.rows), kCtaWarps * 32, 0, cuda_stream(exec)>>>(args);
    QAT_CUDA_CHECK(cudaGetLastError());
    return;
  }
  launch_shape<T>(exec, args, strips, shape);
}

template <typename T>
void run(const Exec& exec, ConstFloatMatrix dy, const ResidualNormSaved& saved, ConstFloatMatrix past, FloatMatrix dx,
         std::span<float> dweight, std::span<float> dbias) {
  const bool wants_sums = !dweight.empty();
  const std::int64_t strip_rows = std::max<std::int64_t>((dy.rows + kMaxStrips - 1) / kMaxStrips, kCtaWarps);
  const std::int64_t strips = (dy.rows + strip_rows - 1) / strip_rows;
  const DeviceScratch<float> partial(exec, wants_sums ? strips * 2 * dy.cols : 0);
  if (strips > 0) {
    run_rows(exec,
             BackwardArgs<T>{static_cast<const T*>(dy.data), static_cast<const T*>(saved.residual.data),
                             static_cast<const T*>(past.empty() ? nullptr : past.data), static_cast<T*>(dx.data),
                             saved.mean.data(), saved.rstd.data(), saved.weight.data(),
                             wants_sums ? partial.get() : nullptr, dy.rows, strip_rows, static_cast<int>(dy.cols)},
             strips);
  }
  if (!wants_sums) return;
  add_partial_kernel<<<static_cast<unsigned>((2 * dy.cols + 31) / 32), dim3(32, kLanes), 0, cuda_stream(exec)>>>(
      partial.get(), strips, static_cast<int>(dy.cols), dweight.data(), dbias.data());
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void residual_norm_backward_cuda(const Exec& exec, ConstFloatMatrix dy, const ResidualNormSaved& saved,
                                 ConstFloatMatrix dresidual_in, FloatMatrix dresidual, std::span<float> dweight,
                                 std::span<float> dbias) {
  if (dy.cols == 0) return;
  if (dy.dtype == DType::kBFloat16)
    run<__nv_bfloat16>(exec, dy, saved, dresidual_in, dresidual, dweight, dbias);
  else
    run<float>(exec, dy, saved, dresidual_in, dresidual, dweight, dbias);
}

}  // namespace qat::kernels
