#include <algorithm>

#include "kernels/common/codes.cuh"
#include "kernels/common/cuda_check.h"
#include "kernels/common/error.h"
#include "kernels/common/float_vectors.cuh"
#include "kernels/common/shape_text.h"
#include "kernels/quant/code_passes_cuda.h"
#include "kernels/quant/prepare_adapters_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kRows = 8;  // rows of A of one CTA: pieces of 8 values of its transpose
constexpr int kWarpsPerRow = kThreads / 32 / kRows;
constexpr int kPiece = 8;  // elements of B of one thread
constexpr std::int64_t kMaxRank = 64;

// Kernel arguments of more than 4 KB need newer drivers, and make the launch wait.
constexpr int kMaxJobs = 50;
template <typename Job>
struct JobTable {
  int count;
  Job jobs[kMaxJobs];  // first_cta ascends
  static_assert(sizeof(Job) * kMaxJobs + 8 <= 4096);
};

template <typename Job>
__device__ const Job& own_job(const JobTable<Job>& table) {
  const int cta = static_cast<int>(blockIdx.x);
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.jobs[middle].first_cta <= cta ? low : high) = middle;
  }
  return table.jobs[low];
}

__device__ std::uint32_t nearest_of(float x, float inverse, float limit) {
  return nearest_code(clamp_magnitude(x * inverse, limit));
}
__device__ float value_of(std::uint32_t code) { return static_cast<float>(static_cast<std::int8_t>(code)); }

// ---- A: a CTA codes eight rows, read for their scales and again, out of the cache, for their codes

template <typename T>
struct JobA {
  const float* a;  // [rank, k]
  std::int8_t* codes;
  float* scales;
  T* values;  // [k, rank]
  int k, rank, first_cta;
  float floor, q_max;
};

// Of the columns first, first + step, ... and the three that follow each of them, over a warp.
__device__ std::uint32_t max_bits_of(const float* row, int k, int first, int step) {
  float largest = 0.0F;
#pragma unroll 4
  for (int c = first; c < k; c += step) {
    const float4 x = *reinterpret_cast<const float4*>(row + c);
    largest = max_magnitude(max_magnitude(largest, x.x), x.y);
    largest = max_magnitude(max_magnitude(largest, x.z), x.w);
  }
  return __reduce_max_sync(kWholeWarp, __float_as_uint(largest));
}

// Codes and transposed values of columns c ... c + 3 of eight rows.
template <typename T>
__device__ void code_columns(const JobA<T>& job, int row0, int c, const float (&inverse)[kRows]) {
  const std::int64_t at = static_cast<std::int64_t>(row0) * job.k + c;
  float4 x[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) x[i] = *reinterpret_cast<const float4*>(job.a + at + i * job.k);
  float columns[4][kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const float limit = limit_of(inverse[i], job.q_max);
    const float row[4] = {x[i].x, x[i].y, x[i].z, x[i].w};
    std::uint32_t code[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      code[j] = nearest_of(row[j], inverse[i], limit);
      columns[j][i] = value_of(code[j]);
    }
    const std::uint32_t low = __byte_perm(code[0], code[1], 0x0040U), high = __byte_perm(code[2], code[3], 0x0040U);
    *reinterpret_cast<std::uint32_t*>(job.codes + at + i * job.k) = __byte_perm(low, high, 0x5410U);
  }
#pragma unroll
  for (int j = 0; j < 4; ++j)
    store8(job.values + static_cast<std::int64_t>(c + j) * job.rank + row0, pack8<T>(columns[j]));
}

template <typename T>
__global__ void __launch_bounds__(kThreads) prepare_a_kernel(const __grid_constant__ JobTable<JobA<T>> table) {
  __shared__ std::uint32_t max_bits[kRows * kWarpsPerRow];
  __shared__ float inverses[kRows];
  const JobA<T>& job = own_job(table);
  const int row0 = (static_cast<int>(blockIdx.x) - job.first_cta) * kRows;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const float* row = job.a + static_cast<std::int64_t>(row0 + warp / kWarpsPerRow) * job.k;
  const int first = (warp % kWarpsPerRow * 32 + lane) * 4;
  const std::uint32_t bits = max_bits_of(row, job.k, first, kWarpsPerRow * 32 * 4);
  if (lane == 0) max_bits[warp] = bits;
  __syncthreads();
  if (thread < kRows) {
    std::uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < kWarpsPerRow; ++i) largest = max(largest, max_bits[thread * kWarpsPerRow + i]);
    const float scale = scale_of_max_bits(largest, job.floor, job.q_max);
    job.scales[row0 + thread] = scale;
    inverses[thread] = __frcp_rn(scale);
  }
  __syncthreads();
  float inverse[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) inverse[i] = inverses[i];
  for (int c = thread * 4; c < job.k; c += kThreads * 4) code_columns(job, row0, c, inverse);
}

// ---- B: a row is held by `lanes` neighbouring threads, eight elements each

template <typename T>
struct JobB {
  const float* b;  // [n, rank]
  const float* weight_scales;
  T* values;
  T* over_scales;
  int n, rank, first_cta;
  int lanes;  // a power of two, so that no row crosses a warp; those beyond rank / 8 are idle
  float scaling, floor, q_max;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) prepare_b_kernel(const __grid_constant__ JobTable<JobB<T>> table) {
  const JobB<T>& job = own_job(table);
  const int thread = static_cast<int>(threadIdx.x), lanes = job.lanes;
  const int n = (static_cast<int>(blockIdx.x) - job.first_cta) * (kThreads / lanes) + thread / lanes;
  const int j0 = thread % lanes * kPiece;
  const bool active = n < job.n && j0 < job.rank;
  const std::int64_t at = static_cast<std::int64_t>(n) * job.rank + j0;
  float x[kPiece] = {};
  if (active) unpack8(load8(job.b + at), x);
  float largest = 0.0F;
#pragma unroll
  for (int j = 0; j < kPiece; ++j) largest = max_magnitude(largest, x[j]);
  std::uint32_t bits = __float_as_uint(largest);
  for (int distance = lanes / 2; distance > 0; distance /= 2)
    bits = max(bits, __shfl_xor_sync(kWholeWarp, bits, distance));
  if (!active) return;
  const float scale = scale_of_max_bits(bits, job.floor, job.q_max);
  const float inverse = __frcp_rn(scale), limit = limit_of(inverse, job.q_max);
  const float scaled = scale * job.scaling;
  const float over_scale = __fdiv_rn(scaled, job.weight_scales[n]);
  float values[kPiece], over[kPiece];
#pragma unroll
  for (int j = 0; j < kPiece; ++j) {
    const float code = value_of(nearest_of(x[j], inverse, limit));
    values[j] = code * scaled;
    over[j] = code * over_scale;
  }
  store8(job.values + at, pack8<T>(values));
  store8(job.over_scales + at, pack8<T>(over));
}

// ---- launches

void check_job(const AdapterJob& job) {
  const std::int64_t rank = job.a.rows;
  QAT_CHECK(rank % kRows == 0 && rank <= kMaxRank && job.a.cols % 8 == 0 && job.b.rows <= INT32_MAX / 2 &&
                job.a.cols <= INT32_MAX / 2,
            "A of " + shape_text(job.a) + " and B of " + shape_text(job.b) + " do not fit the GPU's kernel");
  const bool aligned = is_aligned(job.a.data, 16) && is_aligned(job.b.data, 16) && is_aligned(job.a_codes.data, 16) &&
                       is_aligned(job.a_values.data, 16) && is_aligned(job.b_values.data, 16) &&
                       is_aligned(job.b_over_scales.data, 16);
  QAT_CHECK(aligned, "a matrix of an adapter does not begin on a 16-byte boundary");
}

template <typename T>
JobA<T> job_a(const AdapterJob& job, int first_cta) {
  return {.a = job.a.data,
          .codes = job.a_codes.data,
          .scales = job.a_scales.data(),
          .values = static_cast<T*>(job.a_values.data),
          .k = static_cast<int>(job.a.cols),
          .rank = static_cast<int>(job.a.rows),
          .first_cta = first_cta,
          .floor = job.options.amax_floor,
          .q_max = static_cast<float>(job.options.width.q_max())};
}

template <typename T>
JobB<T> job_b(const AdapterJob& job, int first_cta) {
  int lanes = 1;
  while (lanes * kPiece < job.b.cols) lanes *= 2;
  return {.b = job.b.data,
          .weight_scales = job.weight_scales.data(),
          .values = static_cast<T*>(job.b_values.data),
          .over_scales = static_cast<T*>(job.b_over_scales.data),
          .n = static_cast<int>(job.b.rows),
          .rank = static_cast<int>(job.b.cols),
          .first_cta = first_cta,
          .lanes = lanes,
          .scaling = job.scaling,
          .floor = job.options.amax_floor,
          .q_max = static_cast<float>(job.options.width.q_max())};
}

template <typename Job>
void launch(void (*kernel)(JobTable<Job>), const JobTable<Job>& table, int ctas, cudaStream_t stream) {
  if (ctas == 0) return;
  kernel<<<static_cast<unsigned>(ctas), kThreads, 0, stream>>>(table);
  QAT_CUDA_CHECK(cudaGetLastError());
}

template <typename T>
void prepare(std::span<const AdapterJob> jobs, cudaStream_t stream) {
  JobTable<JobA<T>> table_a{};
  JobTable<JobB<T>> table_b{};
  int ctas_a = 0, ctas_b = 0;
  for (const AdapterJob& job : jobs) {
    if (job.a.rows == 0) continue;
    table_a.jobs[table_a.count++] = job_a<T>(job, ctas_a);
    ctas_a += static_cast<int>(job.a.rows) / kRows;
    const JobB<T>& entry = table_b.jobs[table_b.count++] = job_b<T>(job, ctas_b);
    const int rows = kThreads / entry.lanes;
    ctas_b += (entry.n + rows - 1) / rows;
  }
  launch(prepare_a_kernel<T>, table_a, ctas_a, stream);
  launch(prepare_b_kernel<T>, table_b, ctas_b, stream);
}

}  // namespace

void prepare_adapters_cuda(const Exec& exec, std::span<const AdapterJob> jobs) {
  for (const AdapterJob& job : jobs) check_job(job);
  const cudaStream_t stream = cuda_stream(exec);
  for (std::size_t first = 0; first < jobs.size(); first += kMaxJobs) {
    const auto part = jobs.subspan(first, std::min<std::size_t>(kMaxJobs, jobs.size() - first));
    if (jobs.front().a_values.dtype == DType::kBFloat16)
      prepare<__nv_bfloat16>(part, stream);
    else
      prepare<float>(part, stream);
  }
}

}  // namespace qat::kernels
