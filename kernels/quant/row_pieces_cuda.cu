#include <algorithm>
#include <cstdint>

#include "kernels/common/codes.cuh"
#include "kernels/common/cuda_check.h"
#include "kernels/common/cuda_device.h"
#include "kernels/quant/row_pieces_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kLane = 4;                    // neighbouring elements of a thread: four codes are a word
constexpr int kCta = kThreads * kLane * 4;  // elements of a CTA

struct Job {
  float* values;
  std::int64_t code;
  int first, elems, cols, row;
  float q_max;
  bool whole_lanes;  // a thread's elements are in one row, and the values are aligned for it
};

constexpr int kMaxJobs = 64;
struct JobTable {
  Job jobs[kMaxJobs];
};
static_assert(sizeof(JobTable) <= 4000);  // more arguments make a launch wait

// A CTA's share of job blockIdx.y, four elements after four: body(job, i, n), n of them from element i of the piece on.
template <typename Body>
__device__ __forceinline__ void for_lanes(const JobTable& table, const Body& body) {
  const Job& job = table.jobs[blockIdx.y];
  const int begin = blockIdx.x * kCta;
#pragma unroll
  for (int v = 0; v < kCta / (kThreads * kLane); ++v) {
    const int i = begin + (v * kThreads + static_cast<int>(threadIdx.x)) * kLane;
    if (i < job.elems) body(job, i, job.elems - i < kLane ? job.elems - i : kLane);
  }
}

__device__ __forceinline__ int row_of(const Job& job, int i) {
  return job.row + static_cast<int>(static_cast<unsigned>(job.first + i) / static_cast<unsigned>(job.cols));
}

__device__ __forceinline__ float4 load(const Job& job, int i, int n) {
  if (job.whole_lanes && n == kLane) return *reinterpret_cast<const float4*>(job.values + i);
  float x[kLane] = {};
#pragma unroll
  for (int j = 0; j < kLane; ++j)
    if (j < n) x[j] = job.values[i + j];
  return {x[0], x[1], x[2], x[3]};
}

__device__ __forceinline__ int magnitude_bits(float x) { return __float_as_int(x) & 0x7FFFFFFF; }

__global__ void __launch_bounds__(kThreads) amax_kernel(const JobTable table, int* amax) {
  for_lanes(table, [&](const Job& job, int i, int n) {
    const float4 x = load(job, i, n);
    const int bits[kLane] = {magnitude_bits(x.x), magnitude_bits(x.y), magnitude_bits(x.z), magnitude_bits(x.w)};
    if (job.whole_lanes || n == 1) {
      int most = max(max(bits[0], bits[1]), max(bits[2], bits[3]));
      const int row = row_of(job, i);
      // The lanes that are here and look at the same row send one maximum.
      const unsigned here = __activemask(), same = __match_any_sync(here, row);
      most = __reduce_max_sync(same, most);
      if (static_cast<int>(threadIdx.x % 32) == __ffs(static_cast<int>(same)) - 1) atomicMax(amax + row, most);
      return;
    }
    for (int j = 0; j < n; ++j) atomicMax(amax + row_of(job, i + j), bits[j]);
  });
}

struct Scale {
  float amax, scale, inverse, limit;
};
__device__ __forceinline__ Scale scale_at(const Job& job, const float* amax, int i) {
  const float most = amax[row_of(job, i)];
  const float scale = scale_of_max_bits(__float_as_uint(most), kWeightAmaxFloor, job.q_max);
  const float inverse = __frcp_rn(scale);
  return {most, scale, inverse, limit_of(inverse, job.q_max)};
}

template <CodeBytes kBytes>
__global__ void __launch_bounds__(kThreads)
    encode_kernel(const JobTable table, const float* amax, std::uint8_t* codes) {
  for_lanes(table, [&](const Job& job, int i, int n) {
    const float4 four = load(job, i, n);
    const float x[kLane] = {four.x, four.y, four.z, four.w};
    Scale scale = scale_at(job, amax, i);
    std::uint32_t code[kLane] = {};
#pragma unroll
    for (int j = 0; j < kLane; ++j) {
      if (j >= n) break;
      if (!job.whole_lanes && j > 0) scale = scale_at(job, amax, i + j);
      code[j] = nearest_code(clamp_magnitude(__fmul_rn(x[j], scale.inverse), scale.limit)) & 0xFFU;
      if (scale.limit == 0.0F) code[j] = 0;
    }
    const std::int64_t at = job.code + i;
    if constexpr (kBytes == CodeBytes::kOne) {
      if (n == kLane && job.whole_lanes) {
        *reinterpret_cast<std::uint32_t*>(codes + at) = code[0] | code[1] << 8 | code[2] << 16 | code[3] << 24;
      } else {
        for (int j = 0; j < n; ++j) codes[at + j] = static_cast<std::uint8_t>(code[j]);
      }
    } else {
      for (int j = 0; j < n; j += 2)
        codes[(at + j) / 2] = static_cast<std::uint8_t>((code[j] & 0xFU) | (code[j + 1] & 0xFU) << 4);
    }
  });
}

template <CodeBytes kBytes>
__global__ void __launch_bounds__(kThreads)
    decode_kernel(const JobTable table, const float* amax, const std::uint8_t* codes) {
  for_lanes(table, [&](const Job& job, int i, int n) {
    const std::int64_t at = job.code + i;
    int code[kLane] = {};
    if constexpr (kBytes == CodeBytes::kOne) {
      if (n == kLane && job.whole_lanes) {
        const std::uint32_t word = *reinterpret_cast<const std::uint32_t*>(codes + at);
#pragma unroll
        for (int j = 0; j < kLane; ++j) code[j] = static_cast<std::int8_t>(word >> (8 * j));
      } else {
        for (int j = 0; j < n; ++j) code[j] = static_cast<std::int8_t>(codes[at + j]);
      }
    } else {
      for (int j = 0; j < n; j += 2) {
        const int byte = static_cast<std::int8_t>(codes[(at + j) / 2]);
        code[j] = static_cast<std::int8_t>(byte << 4) >> 4;
        code[j + 1] = byte >> 4;
      }
    }
    Scale scale = scale_at(job, amax, i);
    float x[kLane];
#pragma unroll
    for (int j = 0; j < kLane; ++j) {
      if (j >= n) break;
      if (!job.whole_lanes && j > 0) scale = scale_at(job, amax, i + j);
      const auto exact = static_cast<float>(code[j]);
      x[j] = fabsf(exact) == job.q_max ? copysignf(scale.amax, exact) : __fmul_rn(exact, scale.scale);
      if (scale.limit == 0.0F) x[j] = quiet_nan();
    }
    if (n == kLane && job.whole_lanes) {
      *reinterpret_cast<float4*>(job.values + i) = {x[0], x[1], x[2], x[3]};
    } else {
      for (int j = 0; j < n; ++j) job.values[i + j] = x[j];
    }
  });
}

// launch(table, grid) for all pieces, so many a launch.
template <typename Launch>
void for_tables(std::span<const RowPiece> pieces, const Launch& launch) {
  JobTable table;
  unsigned count = 0;
  std::int64_t most = 0;
  const auto send = [&] {
    if (count > 0) launch(table, dim3(static_cast<unsigned>((most + kCta - 1) / kCta), count));
    QAT_CUDA_CHECK(cudaGetLastError());
    count = 0, most = 0;
  };
  for (const RowPiece& piece : pieces) {
    if (piece.elems == 0) continue;
    table.jobs[count++] = {.values = piece.values,
                           .code = piece.code,
                           .first = static_cast<int>(piece.first),
                           .elems = static_cast<int>(piece.elems),
                           .cols = static_cast<int>(piece.cols),
                           .row = static_cast<int>(piece.row),
                           .q_max = static_cast<float>(BitWidth(piece.bits).q_max()),
                           .whole_lanes = piece.cols % kLane == 0 && piece.first % kLane == 0 &&
                                          piece.code % kLane == 0 &&
                                          reinterpret_cast<std::uintptr_t>(piece.values) % sizeof(float4) == 0};
    most = std::max(most, piece.elems);
    if (count == kMaxJobs) send();
  }
  send();
}

}  // namespace

void row_piece_amax_cuda(const Exec& exec, std::span<const RowPiece> pieces, std::span<float> amax) {
  cuda_zero(amax.data(), amax.size_bytes(), exec.stream);
  for_tables(pieces, [&](const JobTable& table, dim3 grid) {
    amax_kernel<<<grid, kThreads, 0, cuda_stream(exec)>>>(table, reinterpret_cast<int*>(amax.data()));
  });
}

void encode_row_pieces_cuda(const Exec& exec, std::span<const RowPiece> pieces, std::span<const float> amax,
                            CodeBytes bytes, std::span<std::uint8_t> codes) {
  for_tables(pieces, [&](const JobTable& table, dim3 grid) {
    const auto kernel = bytes == CodeBytes::kOne ? encode_kernel<CodeBytes::kOne> : encode_kernel<CodeBytes::kHalf>;
    kernel<<<grid, kThreads, 0, cuda_stream(exec)>>>(table, amax.data(), codes.data());
  });
}

void decode_row_pieces_cuda(const Exec& exec, std::span<const RowPiece> pieces, std::span<const float> amax,
                            CodeBytes bytes, std::span<const std::uint8_t> codes) {
  for_tables(pieces, [&](const JobTable& table, dim3 grid) {
    const auto kernel = bytes == CodeBytes::kOne ? decode_kernel<CodeBytes::kOne> : decode_kernel<CodeBytes::kHalf>;
    kernel<<<grid, kThreads, 0, cuda_stream(exec)>>>(table, amax.data(), codes.data());
  });
}

}  // namespace qat::kernels
