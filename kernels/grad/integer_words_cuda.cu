#include "kernels/common/cuda_check.h"
#include "kernels/grad/integer_words_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kThreads = 256;

// A word a thread.
template <bool kPack>
__global__ void __launch_bounds__(kThreads) change_words_kernel(std::int32_t* data, std::int64_t n, int bits) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const auto word = static_cast<std::uint32_t>(data[i]);
  data[i] = static_cast<std::int32_t>(kPack ? packed_word(word, bits) : unpacked_word(word, bits));
}

template <bool kPack>
void change_words(const Exec& exec, std::span<std::int32_t> data, int bits) {
  const auto n = static_cast<std::int64_t>(data.size());
  const auto blocks = static_cast<unsigned>((n + kThreads - 1) / kThreads);
  change_words_kernel<kPack><<<blocks, kThreads, 0, cuda_stream(exec)>>>(data.data(), n, bits);
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void pack_words_cuda(const Exec& exec, std::span<std::int32_t> data, int bits) { change_words<true>(exec, data, bits); }
void unpack_words_cuda(const Exec& exec, std::span<std::int32_t> data, int bits) {
  change_words<false>(exec, data, bits);
}

}  // namespace qat::kernels
