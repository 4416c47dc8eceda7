#include "kernels/common/cuda_check.h"
#include "kernels/common/normal_draw.h"
#include "kernels/optim/add_noise_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kThreads = 256;

// A thread for each block of draws that the range touches.   n: elements; skipped: draws of the first block before
// x[0].
__global__ __launch_bounds__(kThreads) void add_noise_kernel(float* x, std::int64_t n, std::uint64_t first_block,
                                                             int skipped, double deviation, RngKey key) {
  const std::int64_t block = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t begin = block * kNormalDraws - skipped;
  if (begin >= n) return;
  float draws[kNormalDraws];
  normal_draws(philox(key, first_block + static_cast<std::uint64_t>(block)), deviation, draws);
#pragma unroll
  for (int d = 0; d < kNormalDraws; ++d)
    if (begin + d >= 0 && begin + d < n) x[begin + d] = __fadd_rn(x[begin + d], draws[d]);
}

}  // namespace

void add_noise_cuda(const Exec& exec, std::span<float> x, std::uint64_t first, double deviation, RngKey key) {
  const auto n = static_cast<std::int64_t>(x.size());
  const int skipped = static_cast<int>(first % kNormalDraws);
  const std::int64_t blocks = (n + skipped + kNormalDraws - 1) / kNormalDraws;
  const auto ctas = static_cast<unsigned>((blocks + kThreads - 1) / kThreads);
  add_noise_kernel<<<ctas, kThreads, 0, cuda_stream(exec)>>>(x.data(), n, first / kNormalDraws, skipped, deviation,
                                                             key);
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace qat::kernels
