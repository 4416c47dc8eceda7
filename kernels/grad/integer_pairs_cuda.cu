#include "kernels/common/cuda_check.h"
#include "kernels/grad/integer_pairs_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kThreads = 256;

// A word a thread.
__global__ void __launch_bounds__(kThreads) shift_pairs_kernel(std::int32_t* words, std::int64_t n, int step) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const auto bits = static_cast<std::uint32_t>(words[i]);
  if ((bits & 0x8000U) != 0) words[i] = static_cast<std::int32_t>(bits + (static_cast<std::uint32_t>(step) << 16U));
}

}  // namespace

void shift_pairs_cuda(const Exec& exec, std::span<std::int32_t> words, int step) {
  const auto n = static_cast<std::int64_t>(words.size());
  shift_pairs_kernel<<<static_cast<unsigned>((n + kThreads - 1) / kThreads), kThreads, 0, cuda_stream(exec)>>>(
      words.data(), n, step);
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace qat::kernels
