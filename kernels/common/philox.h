// Counter-based random numbers (Philox4x32-10, Salmon et al., SC'11): a pure function of (key, counter), the same on
// a CPU and on a GPU, so that a draw depends on what is drawn for and never on how many ranks or threads draw.
#pragma once

#include <array>
#include <cstdint>

#if defined(__CUDACC__)
#define QAT_HOST_DEVICE __host__ __device__
#else
#define QAT_HOST_DEVICE
#endif

namespace qat::kernels {

// Names one stream of draws. `seed` is the run's; `stream` tells users of randomness apart (see src/base/rng.h).
struct RngKey {
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
};

struct Philox4 {
  std::uint32_t v[4];
};

QAT_HOST_DEVICE constexpr Philox4 philox(RngKey key, std::uint64_t counter) {
  constexpr std::uint32_t kMul0 = 0xD2511F53U, kMul1 = 0xCD9E8D57U;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9U, kWeyl1 = 0xBB67AE85U;
  std::uint32_t c0 = static_cast<std::uint32_t>(counter), c1 = static_cast<std::uint32_t>(counter >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(key.stream), c3 = static_cast<std::uint32_t>(key.stream >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(kMul0) * c0;
    const std::uint64_t p1 = static_cast<std::uint64_t>(kMul1) * c2;
    const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1), a multiple of 2^-24: exact in fp32.
QAT_HOST_DEVICE constexpr float uniform01(std::uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24F; }

// The draw for element `index` of a stream: word index % 4 of block index / 4.
QAT_HOST_DEVICE constexpr float uniform_at(RngKey key, std::uint64_t index) {
  return uniform01(philox(key, index / 4).v[index % 4]);
}

}  // namespace qat::kernels
