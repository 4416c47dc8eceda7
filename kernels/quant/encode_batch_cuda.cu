#include <algorithm>
#include <vector>

#include "kernels/common/code_tile.cuh"
#include "kernels/common/codes.cuh"
#include "kernels/common/float_vectors.cuh"
#include "kernels/common/row_group.cuh"
#include "kernels/quant/code_passes_cuda.h"
#include "kernels/quant/encode_batch_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kMaxVectors = 4;
constexpr int kPairWarps = 16;   // of a CTA that shares its multiprocessor with another one
constexpr int kAloneWarps = 28;  // of one whose tile leaves no room for another: 4 rows of 6,400 columns at a time
constexpr int kPairBytes = 106 * 1024;

struct Job {
  const float* x;
  std::int8_t* codes;  // either may be null
  std::int8_t* transposed;
  float* scales;
  int rows, cols;
  int tile_rows, first_tile;  // a CTA a tile
  short warps, vectors;       // of a row
  float floor, q_max;
};

// Kernel arguments of more than 4 KB need newer drivers, and make the launch wait.
constexpr int kMaxJobs = static_cast<int>((4096 - sizeof(Job)) / sizeof(Job));
struct JobTable {
  int count;
  Job jobs[kMaxJobs];  // first_tile ascends
};
static_assert(sizeof(JobTable) <= 4096);

__device__ int job_of(const JobTable& table, int tile) {
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.jobs[middle].first_tile <= tile ? low : high) = middle;
  }
  return low;
}

// Row i of the tile: read once, kept in registers until its scale is known. cols: the job's, or 0 in a group of warps
// that has no row.
template <int kVectors>
__device__ void code_row(const Job& job, RowGroup& group, const CodeTile& tile, int row0, int i, int cols) {
  const std::int64_t base = static_cast<std::int64_t>(row0 + i) * job.cols;
  Raw8<float> kept[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    kept[v] = {};
    if (group.column(v) < cols) kept[v] = load8(job.x + base + group.column(v));
  }
  LargestMagnitude<float> largest;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) largest.add(kept[v]);
  const RowCode code(group.max(largest.bits()), job.floor, job.q_max);
  if (group.lane() == 0 && cols > 0) job.scales[row0 + i] = code.scale;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int c = group.column(v);
    if (c >= cols) continue;
    float values[8];
    unpack8(kept[v], values);
    const uint2 codes = code.eight(values);
    if (job.codes != nullptr) *reinterpret_cast<uint2*>(job.codes + base + c) = codes;
    if (job.transposed != nullptr) tile.put(i, c, codes);
  }
}

// Every thread of the CTA takes every turn: groups of several warps meet at its barrier.
template <int kVectors>
__device__ void code_rows(const Job& job, unsigned* slots, const CodeTile& tile, int row0, int tile_rows) {
  RowGroup group(slots, job.warps);
  const int turns = (tile_rows + group.count() - 1) / group.count();
  for (int turn = 0; turn < turns; ++turn) {
    const int i = turn * group.count() + group.index();
    const bool has_row = group.index() < group.count() && i < tile_rows;  // warps may be left over
    code_row<kVectors>(job, group, tile, row0, i, has_row ? job.cols : 0);
  }
}

// 1024: at most 64 registers, so that two CTAs of kPairWarps fit.
__global__ void __launch_bounds__(1024) encode_batch_kernel(const __grid_constant__ JobTable table) {
  extern __shared__ __align__(128) unsigned char tile_bytes[];
  __shared__ unsigned slots[RowGroup::kSlots];
  const int index = job_of(table, static_cast<int>(blockIdx.x));
  const Job& job = table.jobs[index];
  const int row0 = (static_cast<int>(blockIdx.x) - job.first_tile) * job.tile_rows;
  const int tile_rows = min(job.tile_rows, job.rows - row0);
  const CodeTile tile{tile_bytes, (job.cols + 127) / 128 * 128, job.tile_rows == 64 ? 2 : 1};
  switch (job.vectors) {
    case 1:
      code_rows<1>(job, slots, tile, row0, tile_rows);
      break;
    case 2:
      code_rows<2>(job, slots, tile, row0, tile_rows);
      break;
    case 3:
      code_rows<3>(job, slots, tile, row0, tile_rows);
      break;
    default:
      code_rows<4>(job, slots, tile, row0, tile_rows);
  }
  if (job.transposed == nullptr) return;
  __syncthreads();
  tile.write_transposed(job.transposed, job.rows, row0, tile_rows, job.cols);
}

int tile_bytes_of(const Job& job) {
  return job.transposed == nullptr ? 0 : job.tile_rows * CodeTile::pitch_of(job.cols);
}

// What the kernel above takes; encode_rows takes the rest. Above this floor the reciprocal of a scale is finite.
bool takes(const EncodeRowsJob& job) {
  const ConstFloatMatrix& x = job.x;
  return x.dtype == DType::kFloat32 && job.options.rounding == Rounding::kNearestEven &&
         job.options.amax_floor >= kGradientAmaxFloor && x.rows <= INT32_MAX / 2 && fits_vectors(x.data, x.cols) &&
         row_shape(x.cols, kMaxVectors).warps > 0 && is_aligned(job.out.codes.data, 8) &&
         (job.out.codes_transposed.empty() || 32 * CodeTile::pitch_of(x.cols) <= CodeTile::kMaxBytes);
}

Job job_for(const EncodeRowsJob& from) {
  const ConstFloatMatrix& x = from.x;
  const RowShape shape = row_shape(x.cols, kMaxVectors);
  return {.x = static_cast<const float*>(x.data),
          .codes = from.out.codes.empty() ? nullptr : from.out.codes.data,
          .transposed = from.out.codes_transposed.empty() ? nullptr : from.out.codes_transposed.data,
          .scales = from.scales.data(),
          .rows = static_cast<int>(x.rows),
          .cols = static_cast<int>(x.cols),
          .tile_rows = 64 * CodeTile::pitch_of(x.cols) <= kPairBytes ? 64 : 32,
          .first_tile = 0,
          .warps = static_cast<short>(shape.warps),
          .vectors = static_cast<short>(shape.vectors),
          .floor = from.options.amax_floor,
          .q_max = static_cast<float>(from.options.width.q_max())};
}

// jobs: 1 to kMaxJobs, those of the most bytes first.
void launch(std::span<const Job> jobs, int warps, cudaStream_t stream) {
  JobTable table;
  table.count = static_cast<int>(jobs.size());
  int tiles = 0;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    table.jobs[i] = jobs[i];
    table.jobs[i].first_tile = tiles;
    tiles += (jobs[i].rows + jobs[i].tile_rows - 1) / jobs[i].tile_rows;
  }
  const int bytes = tile_bytes_of(jobs.front());
  allow_shared_memory(encode_batch_kernel, bytes);
  encode_batch_kernel<<<static_cast<unsigned>(tiles), static_cast<unsigned>(32 * warps),
                        static_cast<std::size_t>(bytes), stream>>>(table);
  QAT_CUDA_CHECK(cudaGetLastError());
}

// Large tiles first: the last CTAs to start, which leave multiprocessors idle, are then small ones.
void launch_all(std::vector<Job>& jobs, int warps, cudaStream_t stream) {
  std::stable_sort(jobs.begin(), jobs.end(),
                   [](const Job& a, const Job& b) { return tile_bytes_of(a) > tile_bytes_of(b); });
  for (std::size_t first = 0; first < jobs.size(); first += kMaxJobs)
    launch(std::span(jobs).subspan(first, std::min<std::size_t>(kMaxJobs, jobs.size() - first)), warps, stream);
}

}  // namespace

void encode_rows_batch_cuda(const Exec& exec, std::span<const EncodeRowsJob> jobs) {
  std::vector<Job> pairs, alone;
  for (const EncodeRowsJob& job : jobs) {
    if (job.x.size() == 0 || !takes(job)) {
      encode_rows(exec, job.x, job.options, job.out, job.scales);
      continue;
    }
    const Job taken = job_for(job);
    (tile_bytes_of(taken) <= kPairBytes ? pairs : alone).push_back(taken);
  }
  const cudaStream_t stream = cuda_stream(exec);
  launch_all(alone, kAloneWarps, stream);
  launch_all(pairs, kPairWarps, stream);
}

}  // namespace qat::kernels
