// Products of a matrix with up to 64 rows, the narrow one, and one with many, the wide one: reading the wide one is
// what they cost.
//
//   y[m,n] = (row_scales[m] col_scales[n]) float(sum_k a[m,k] b[n,k]) (+ bias[n]), or the bare sums
//
// a: [M, K], b: [N, K] in int8, K a multiple of 16; either may be the narrow one. y: [M, N] in fp32, bf16 or int32.
//
// A block has a strip of 128 rows of the wide matrix, all rows of the narrow one and a part of the sum, which it goes
// through in steps of 128 codes, with three steps on their way from memory while one is multiplied. Where strips alone
// would leave multiprocessors idle, the sum is cut into parts, and a second kernel adds what the parts came to:
// integers add up to the same in any order.
#include "kernels/common/device_scratch.h"
#include "kernels/gemm/code_matmul_narrow.cuh"

namespace qat::kernels {
namespace {

using narrow::NarrowArgs;
using narrow::quotient_up;

constexpr int kLeastSteps = 4;  // of a part: fewer would not fill the ring

constexpr int kLanes = 32;
constexpr int kGroups = 8;              // of threads that share the parts of a sum
constexpr int kBlockSums = 4 * kLanes;  // a thread reads four sums at a time

// y from the sums of `parts` parts, each of args.rows x args.cols and part_elems, a multiple of 4, after the one
// before.
template <typename Out>
__global__ void __launch_bounds__(kLanes* kGroups)
    add_parts_kernel(const std::int32_t* sums, int parts, std::int64_t part_elems, FinishArgs args) {
  __shared__ int4 shares[kGroups][kLanes];
  const int lane = static_cast<int>(threadIdx.x) % kLanes, group = static_cast<int>(threadIdx.x) / kLanes;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kBlockSums;
  int4 share{};
  if (first + 4 * lane < part_elems) {
#pragma unroll 4
    for (int p = group; p < parts; p += kGroups) {
      const int4 four = *reinterpret_cast<const int4*>(sums + p * part_elems + first + 4 * lane);
      share.x += four.x, share.y += four.y, share.z += four.z, share.w += four.w;
    }
  }
  shares[group][lane] = share;
  __syncthreads();
  const std::int64_t at = first + threadIdx.x;
  if (threadIdx.x >= kBlockSums || at >= args.rows * args.cols) return;
  int sum = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) sum += reinterpret_cast<const int*>(shares[g])[threadIdx.x];
  finish_sum<Out>(args, at / args.cols, at % args.cols, sum);
}

void multiply_in_parts(const Exec& exec, NarrowArgs args, const CudaMatmul& call, std::int64_t parts) {
  const FinishArgs finish = args.finish;
  args.part_elems = quotient_up(finish.rows * finish.cols, 4) * 4;
  const DeviceScratch<std::int32_t> sums(exec, parts * args.part_elems);
  args.finish.y = sums.get();
  args.finish.stride = finish.cols;
  narrow::multiply(exec, args, DType::kInt32, parts);
  const auto blocks = static_cast<unsigned>(quotient_up(args.part_elems, kBlockSums));
  with_out_type(call.y.dtype, [&](auto value) {
    add_parts_kernel<decltype(value)><<<blocks, kLanes * kGroups, 0, cuda_stream(exec)>>>(
        sums.get(), static_cast<int>(parts), args.part_elems, finish);
  });
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void matmul_narrow(const Exec& exec, const CudaMatmul& call) {
  const bool narrow_is_a = call.a.rows < call.b.rows;
  const Matrix<const std::int8_t>& few = narrow_is_a ? call.a : call.b;
  const Matrix<const std::int8_t>& many = narrow_is_a ? call.b : call.a;
  const NarrowArgs args{.wide = many.data,
                        .tail = nullptr,
                        .narrow = few.data,
                        .wide_rows = many.rows,
                        .tail_rows = 0,
                        .depth = many.cols,
                        .narrow_rows = static_cast<int>(few.rows),
                        .narrow_is_a = narrow_is_a,
                        .finish = finish_args(call),
                        .part_elems = 0};
  const std::int64_t parts = narrow::parts_of(quotient_up(many.rows, narrow::kStripRows), many.cols, kLeastSteps);
  if (parts > 1)
    multiply_in_parts(exec, args, call, parts);
  else
    narrow::multiply(exec, args, call.y.dtype, 1);
}

}  // namespace qat::kernels
