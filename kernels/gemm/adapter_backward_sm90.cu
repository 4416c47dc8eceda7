// One read of g for both of an adapter's products, with Hopper's asynchronous matrix unit (wgmma), whose operands lie
// in shared memory: the same tile of g serves as rows and, read across, as columns.
//
//   dh[m,j] = sum_n g[m,n] b[n,j]      db[n,j] = sum_m g[m,n] (h[m,j] x_scales[m])
//
// g: [M, N], b: [N, r], h: [M, r], all bf16, r <= 64: reading g is what it costs.
//
// A block holds a strip of 512 rows: h of the strip in shared memory, the sums of dh of the strip in registers. It goes
// through tiles of 128 columns, each in four steps of 128 rows, with three steps on their way from memory while one is
// multiplied. Sums of db of a tile are complete after four steps, sums of dh after the last tile.
#include <cute/arch/mma_sm90_gmma.hpp>
#include <utility>

#include "kernels/common/async_copy.cuh"
#include "kernels/common/codes.cuh"
#include "kernels/common/cuda_check.h"
#include "kernels/common/float_vectors.cuh"
#include "kernels/gemm/adapter_backward_columns.cuh"
#include "kernels/gemm/adapter_backward_cuda.h"
#include "kernels/gemm/adapter_backward_tiles.cuh"
#include "kernels/quant/side_by_side.cuh"

namespace qat::kernels {
namespace {

using cute::SM90::GMMA::Major;

constexpr int kMmaDepth = 16;                   // of one instruction
constexpr int kMaxRankWithColumns = 32;         // beyond it shared memory is too small for the codes
constexpr std::int64_t kMultiprocessors = 132;  // a constant, not the device's: it decides the order of the sums

template <int kRank>
constexpr int kRowBytesOf = 2 * kRank;  // of h and b

// Where things lie in shared memory, for a rank rounded up to kRank.
template <int kRank, int kColumnBytes>
struct Layout {
  static constexpr int kRowBytes = kRowBytesOf<kRank>;
  static constexpr int kH = kSteps * kSlotBytes;
  static constexpr int kB = kH + kStripRows * kRowBytes;
  static constexpr int kBTileBytes = kTileCols * kRowBytes;  // two of them: this tile's and the next one's
  static constexpr int kAlignment = 1024;                    // the swizzle's period
  static constexpr int kColumns = kB + 2 * kBTileBytes;
  static constexpr int kBytes = kColumns + kColumnBytes + kAlignment;
};

// A matrix of such rows for wgmma, from an address on: groups of eight rows follow each other without gaps. Read along
// the rows it is "major K" for products over columns, "major MN" for products over rows.
template <int kRowBytes>
__device__ __forceinline__ std::uint64_t descriptor(unsigned address) {
  constexpr std::uint64_t kMode = kRowBytes == 128 ? 1 : kRowBytes == 64 ? 2 : 3;
  constexpr std::uint64_t kEightRows = 8 * kRowBytes / 16;
  return static_cast<std::uint64_t>(address >> 4) | std::uint64_t{1} << 16 | kEightRows << 32 | kMode << 62;
}

// Returns when all but the newest kOpen closed groups have arrived, for everybody and for the matrix unit.
template <int kOpen>
__device__ __forceinline__ void wait_for_copies() {
  wait_for_own_copies<kOpen>();
  asm volatile("fence.proxy.async;" ::: "memory");
  __syncthreads();
}

// Rows row .. row + 127 of a tile into a slot: two halves of 64 columns.
__device__ __forceinline__ void copy_step(const Tile& tile, std::int64_t row, std::int64_t rows, unsigned slot) {
  constexpr int kPieces = kTileCols / 8, kRowsAtOnce = kThreads / kPieces;
  const int piece = static_cast<int>(threadIdx.x) % kPieces, first = static_cast<int>(threadIdx.x) / kPieces;
  const unsigned half = static_cast<unsigned>(piece / 8 * kHalfBytes);
  const unsigned to = slot + half + swizzled<128>(static_cast<unsigned>(first * 128 + piece % 8 * 16));
  const bool wanted = piece * 8 < tile.cols;
  const std::int64_t left = rows - row - first;
  const __nv_bfloat16* from = tile.g + (row + first) * tile.stride + piece * 8;
#pragma unroll
  for (int i = 0; i < kStepRows / kRowsAtOnce; ++i) {  // 16 rows on, the swizzle is the same
    const bool inside = wanted && i * kRowsAtOnce < left;
    copy16(to + static_cast<unsigned>(i * kRowsAtOnce * 128), inside ? from : tile.g, inside);
    from += kRowsAtOnce * tile.stride;
  }
}

// The tile's rows of b. Beyond the part and beyond the rank they are zeros.
template <int kRank>
__device__ __forceinline__ void copy_b(const ProductArgs& a, const Tile& tile, unsigned to) {
  constexpr int kPieces = kRank / 8, kRowBytes = kRowBytesOf<kRank>;
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < kTileCols * kPieces; i += kThreads) {
    const int row = i / kPieces, piece = i % kPieces;
    const bool inside = row < tile.cols && piece * 8 < a.rank;
    const __nv_bfloat16* from = inside ? a.b + (tile.first_col + row) * a.rank + piece * 8 : a.b;
    copy16(to + swizzled<kRowBytes>(static_cast<unsigned>(row * kRowBytes + piece * 16)), from, inside);
  }
}

// The strip's rows of h times x's scales, rounded again.
template <int kRank>
__device__ __forceinline__ void load_h(const ProductArgs& a, std::int64_t first_row, unsigned char* to) {
  constexpr int kPieces = kRank / 8, kRowBytes = kRowBytesOf<kRank>;
#pragma unroll 8
  for (int i = static_cast<int>(threadIdx.x); i < kStripRows * kPieces; i += kThreads) {
    const int piece = i % kPieces;
    const std::int64_t row = first_row + i / kPieces;
    Raw8<__nv_bfloat16> scaled{};
    if (row < a.rows && piece * 8 < a.rank) {
      const float scale = a.x_scales[row];
      float values[8];
      unpack8(load8(a.h + row * a.rank + piece * 8), values);
#pragma unroll
      for (float& value : values) value *= scale;
      scaled = pack8<__nv_bfloat16>(values);
    }
    const auto offset = static_cast<unsigned>(i / kPieces * kRowBytes + piece * 16);
    *reinterpret_cast<uint4*>(to + swizzled<kRowBytes>(offset)) = scaled.bits;
  }
}

template <int kRank, Major kMajorA>
struct MmaOf;
template <Major kMajorA>
struct MmaOf<16, kMajorA> {
  using Type = cute::SM90::GMMA::MMA_64x16x16_F32BF16BF16_SS<kMajorA, Major::MN>;
};
template <Major kMajorA>
struct MmaOf<32, kMajorA> {
  using Type = cute::SM90::GMMA::MMA_64x32x16_F32BF16BF16_SS<kMajorA, Major::MN>;
};
template <Major kMajorA>
struct MmaOf<64, kMajorA> {
  using Type = cute::SM90::GMMA::MMA_64x64x16_F32BF16BF16_SS<kMajorA, Major::MN>;
};

// A warpgroup's sums of 64 rows. Element i of lane l in warp w of the group is row 16 w + l / 4 (+ 8 if i & 2) and
// column i / 4 * 8 + l % 4 * 2 + i % 2.
template <int kRank>
struct Sums {
  static constexpr int kCount = kRank / 2;
  float v[kCount];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] = 0.0F;
  }
  // For the compiler: the matrix unit owns the registers up to here.
  __device__ __forceinline__ void settle() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) cute::warpgroup_fence_operand(v[i]);
  }
  template <Major kMajorA>
  __device__ __forceinline__ void multiply_add(std::uint64_t a, std::uint64_t b) {
    multiply_add<kMajorA>(a, b, std::make_index_sequence<kCount>());
  }
  // to: [rows, rank], `rows` of which are left.
  __device__ __forceinline__ void store(float* to, std::int64_t rows, int rank) const {
    const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32;
    const int row = thread / 32 * 16 + lane / 4, col = lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (row + 8 * half >= rows) continue;
      float* at = to + static_cast<std::int64_t>(row + 8 * half) * rank + col;
#pragma unroll
      for (int c = 0; c < kRank / 8; ++c)
        if (c * 8 < rank)
          *reinterpret_cast<float2*>(at + c * 8) = make_float2(v[4 * c + 2 * half], v[4 * c + 2 * half + 1]);
    }
  }

 private:
  template <Major kMajorA, std::size_t... kI>
  __device__ __forceinline__ void multiply_add(std::uint64_t a, std::uint64_t b, std::index_sequence<kI...> /*all*/) {
    MmaOf<kRank, kMajorA>::Type::fma(a, b, v[kI]...);
  }
};

// One step: dh += g b for the group's 64 rows of the step, db += g^T h for its 64 columns of the tile. Under way on
// return.
template <int kRank>
__device__ __forceinline__ void start_step(unsigned slot, unsigned b, unsigned h, unsigned group, Sums<kRank>& dh,
                                           Sums<kRank>& db) {
  constexpr int kRowBytes = kRowBytesOf<kRank>;
  const unsigned rows = slot + group * (64 * 128), columns = slot + group * kHalfBytes;
  dh.settle();
  db.settle();
  cute::warpgroup_arrive();
#pragma unroll
  for (int k = 0; k < kTileCols / kMmaDepth; ++k)
    dh.template multiply_add<Major::K>(descriptor<128>(rows + k / 4 * kHalfBytes + k % 4 * (2 * kMmaDepth)),
                                       descriptor<kRowBytes>(b + k * kMmaDepth * kRowBytes));
#pragma unroll
  for (int k = 0; k < kStepRows / kMmaDepth; ++k)
    db.template multiply_add<Major::MN>(descriptor<128>(columns + k * kMmaDepth * 128),
                                        descriptor<kRowBytes>(h + k * kMmaDepth * kRowBytes));
  cute::warpgroup_commit_batch();
}
template <int kRank>
__device__ __forceinline__ void finish_step(Sums<kRank>& dh, Sums<kRank>& db) {
  cute::warpgroup_wait<0>();
  dh.settle();
  db.settle();
}

template <typename Body, int... kStep>
__device__ __forceinline__ void for_each_step(const Body& body, std::integer_sequence<int, kStep...> /*steps*/) {
  (body(std::integral_constant<int, kStep>()), ...);
}

// Columns: NoColumns or a ColumnCoder, whose work the matrix unit's hides behind.
template <int kRank, typename Columns>
__global__ void __launch_bounds__(kThreads, 1) adapter_products_kernel(const __grid_constant__ ProductArgs a) {
  using At = Layout<kRank, Columns::kBytes>;
  extern __shared__ unsigned char raw[];
  const auto unaligned = shared_address(raw);
  const unsigned base = (unaligned + At::kAlignment - 1) / At::kAlignment * At::kAlignment;
  const unsigned h = base + At::kH, b = base + At::kB;
  const unsigned group = __shfl_sync(kWholeWarp, threadIdx.x / 128, 0);
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * kStripRows;
  const std::int64_t begin = a.tiles * blockIdx.y / gridDim.y, end = a.tiles * (blockIdx.y + 1) / gridDim.y;

  const Strip strip{first_row, a.rows, a.cols};
  Columns columns(a.columns, strip, base, base + At::kColumns);
  Tile tile(a, begin);
  copy_b<kRank>(a, tile, b);
#pragma unroll
  for (int i = 0; i < kSteps - 1; ++i) {
    copy_step(tile, first_row + i * kStepRows, a.rows, base + i * kSlotBytes);
    close_copies();
  }
  load_h<kRank>(a, first_row, raw + (h - unaligned));
  columns.start(tile);

  Sums<kRank> dh[kSteps], db;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) dh[i].clear();
  for (std::int64_t t = begin; t < end; ++t) {
    const bool last = t + 1 == end;
    const Tile next(a, last ? t : t + 1);
    const unsigned parity = static_cast<unsigned>(t - begin) % 2;
    db.clear();
    const auto step = [&]<int kStep>(std::integral_constant<int, kStep> /*step*/) {
      wait_for_copies<kSteps - 2>();
      // Everybody has finished the step before, whose slot is free now. So is the other b, from the tile before on.
      constexpr int kAhead = (kStep + kSteps - 1) % kSteps;
      if (kStep == 1 && !last) copy_b<kRank>(a, next, b + (1 - parity) * At::kBTileBytes);
      if (kStep == 0 || !last)
        copy_step(kStep == 0 ? tile : next, first_row + kAhead * kStepRows, a.rows, base + kAhead * kSlotBytes);
      close_copies();
      start_step<kRank>(base + kStep * kSlotBytes, b + parity * At::kBTileBytes, h + kStep * kStepRows * At::kRowBytes,
                        group, dh[kStep], db);
      columns.template code_step<kStep>(tile, next);
      finish_step<kRank>(dh[kStep], db);
    };
    for_each_step(step, std::make_integer_sequence<int, kSteps>());
    const std::int64_t col = tile.first_col + group * kHalfCols;
    db.store(a.out.db + (blockIdx.x * a.cols + col) * a.rank, tile.cols - static_cast<int>(group) * kHalfCols, a.rank);
    tile = next;
  }
  columns.finish();
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const std::int64_t row = first_row + i * kStepRows + group * 64;
    dh[i].store(a.out.dh + (blockIdx.y * a.rows + row) * a.rank, a.rows - row, a.rank);
  }
}

template <int kRank, typename Columns>
void launch(const ProductArgs& a, const AdapterCut& cut, cudaStream_t stream) {
  constexpr int kBytes = Layout<kRank, Columns::kBytes>::kBytes;
  const auto kernel = adapter_products_kernel<kRank, Columns>;
  QAT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const dim3 grid(static_cast<unsigned>(cut.strips), static_cast<unsigned>(cut.groups));
  kernel<<<grid, kThreads, kBytes, stream>>>(a);
  QAT_CUDA_CHECK(cudaGetLastError());
}

template <int kRank>
void launch(const ProductArgs& a, const AdapterCut& cut, Rounding rounding, cudaStream_t stream) {
  if (a.columns.codes == nullptr)
    launch<kRank, NoColumns>(a, cut, stream);
  else if (rounding == Rounding::kStochastic)
    launch<kRank, ColumnCoder<true>>(a, cut, stream);
  else
    launch<kRank, ColumnCoder<false>>(a, cut, stream);
}

std::int64_t tiles_of(std::int64_t cols) { return (cols + kTileCols - 1) / kTileCols; }

std::int64_t tiles_of(const GradientColumns& g) {
  std::int64_t tiles = 0;
  for (int p = 0; p < g.count; ++p) tiles += tiles_of(g.parts[static_cast<std::size_t>(p)].cols);
  return tiles;
}

}  // namespace

AdapterCut adapter_cut(const GradientColumns& g, std::int64_t rank) {
  const std::int64_t strips = (rows_of(g) + kStripRows - 1) / kStripRows, tiles = tiles_of(g);
  // The time of a block in 32ths of a tile's: its tiles, and its sums of dh, which are written and read again.
  const auto time = [&](std::int64_t groups) {
    const std::int64_t rounds = (strips * groups + kMultiprocessors - 1) / kMultiprocessors;
    return rounds * ((tiles + groups - 1) / groups * 32 + rank);
  };
  std::int64_t best = 1;
  for (std::int64_t groups = 2; groups <= tiles; ++groups)
    if (time(groups) < time(best)) best = groups;
  return {strips, best};
}

bool takes_adapter_columns(const GradientColumns& g, std::int64_t rank, const Matrix<std::int8_t>& codes_transposed) {
  bool whole_blocks = true;  // of Philox, whose draws a thread uses up
  for (int p = 0; p < g.count; ++p) whole_blocks &= g.parts[static_cast<std::size_t>(p)].cols % kRoundingDraws == 0;
  return whole_blocks && rank <= kMaxRankWithColumns && rows_of(g) % 16 == 0 && is_aligned(codes_transposed.data, 16);
}

void adapter_products_sm90(const Exec& exec, const GradientColumns& g, const AdapterBackwardOperands& operands,
                           const AdapterColumns& columns, const AdapterCut& cut, const AdapterPartials& partials) {
  const bool with_columns = !columns.codes_transposed.empty();
  ProductArgs a{.g = side_by_side(g),
                .tiles_end = {},
                .rows = rows_of(g),
                .cols = cols_of(g),
                .tiles = 0,
                .rank = static_cast<int>(operands.b.cols),
                .b = static_cast<const __nv_bfloat16*>(operands.b.data),
                .h = static_cast<const __nv_bfloat16*>(operands.h.data),
                .x_scales = operands.x_scales.data(),
                .out = partials,
                .columns = {.row_factors = operands.x_scales.data(),
                            .scales = columns.scales.data(),
                            .keys = rounding_keys(columns.options.key),
                            .codes = with_columns ? columns.codes_transposed.data : nullptr}};
  for (int p = 0; p < 3; ++p) {
    if (p < g.count) a.tiles += tiles_of(g.parts[static_cast<std::size_t>(p)].cols);
    a.tiles_end[p] = a.tiles;
  }
  const auto stream = cuda_stream(exec);
  const Rounding rounding = columns.options.rounding;
  if (a.rank <= 16)
    launch<16>(a, cut, rounding, stream);
  else if (a.rank <= kMaxRankWithColumns)
    launch<32>(a, cut, rounding, stream);
  else
    launch<64, NoColumns>(a, cut, stream);
}

}  // namespace qat::kernels
