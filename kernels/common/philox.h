// Counter-based random numbers (Philox4x32, Salmon et al., SC'11): a pure function of (key, counter), the same on a CPU
// and on a GPU, so that a draw depends on what is drawn for and never on how many ranks or threads draw.
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

// Ten rounds are the authors' default; seven are the fewest that pass BigCrush (their table 2).
constexpr int kPhiloxRounds = 10;
constexpr int kRoundingPhiloxRounds = 7;
constexpr std::uint32_t kPhiloxMul0 = 0xD2511F53U, kPhiloxMul1 = 0xCD9E8D57U;
constexpr std::uint32_t kPhiloxWeyl0 = 0x9E3779B9U, kPhiloxWeyl1 = 0xBB67AE85U;

template <int kRounds = kPhiloxRounds>
QAT_HOST_DEVICE constexpr Philox4 philox(RngKey key, std::uint64_t counter) {
  std::uint32_t c0 = static_cast<std::uint32_t>(counter), c1 = static_cast<std::uint32_t>(counter >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(key.stream), c3 = static_cast<std::uint32_t>(key.stream >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(kPhiloxMul0) * c0;
    const std::uint64_t p1 = static_cast<std::uint64_t>(kPhiloxMul1) * c2;
    const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1), a multiple of 2^-24: exact in fp32.
QAT_HOST_DEVICE constexpr float uniform01(std::uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24F; }

// The draw for element `index` of a stream: word index % 4 of block index / 4.
QAT_HOST_DEVICE constexpr float uniform_at(RngKey key, std::uint64_t index) {
  return uniform01(philox(key, index / 4).v[index % 4]);
}

// The draw of stochastic rounding for element `index`, made to be cheap (one is needed per element of every gradient):
// seven rounds, eight bits, sixteen draws a block. Byte index % 16 of block index / 16 (byte b is that of word b / 4,
// the lowest first):
//   u = (byte + 1/2) / 256: in (0, 1), of mean exactly 1/2, exact in fp32; f + u >= 1 has the probability f to within
//   2^-9.
constexpr int kRoundingDraws = 16;
QAT_HOST_DEVICE constexpr Philox4 rounding_block(RngKey key, std::uint64_t block) {
  return philox<kRoundingPhiloxRounds>(key, block);
}
// What all blocks of a stream share, worked out once: a kernel's constants.
struct RoundingKeys {
  std::uint32_t
      first[3];  // of the first round: what is added to the counter's high word, word 1, and to the high product
  std::uint32_t later[kRoundingPhiloxRounds - 1][2];
};
QAT_HOST_DEVICE constexpr RoundingKeys rounding_keys(RngKey key) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
  const std::uint64_t p1 = static_cast<std::uint64_t>(kPhiloxMul1) * static_cast<std::uint32_t>(key.stream);
  RoundingKeys keys{{static_cast<std::uint32_t>(p1 >> 32) ^ k0, static_cast<std::uint32_t>(p1),
                     static_cast<std::uint32_t>(key.stream >> 32) ^ k1},
                    {}};
  for (auto& later : keys.later) {
    later[0] = k0 += kPhiloxWeyl0;
    later[1] = k1 += kPhiloxWeyl1;
  }
  return keys;
}
QAT_HOST_DEVICE constexpr Philox4 rounding_block(const RoundingKeys& keys, std::uint64_t block) {
  const std::uint64_t first = static_cast<std::uint64_t>(kPhiloxMul0) * static_cast<std::uint32_t>(block);
  std::uint32_t c0 = static_cast<std::uint32_t>(block >> 32) ^ keys.first[0], c1 = keys.first[1];
  std::uint32_t c2 = static_cast<std::uint32_t>(first >> 32) ^ keys.first[2], c3 = static_cast<std::uint32_t>(first);
  for (int round = 0; round < kRoundingPhiloxRounds - 1; ++round) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(kPhiloxMul0) * c0;
    const std::uint64_t p1 = static_cast<std::uint64_t>(kPhiloxMul1) * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ keys.later[round][0];
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ keys.later[round][1];
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
  }
  return {{c0, c1, c2, c3}};
}

template <typename Key>  // RngKey or RoundingKeys
QAT_HOST_DEVICE constexpr std::uint32_t rounding_byte_at(const Key& key, std::uint64_t index) {
  const Philox4 block = rounding_block(key, index / kRoundingDraws);
  const std::uint64_t w = index % 16 / 4;  // selected, not indexed: on a GPU an index would put the block into memory
  const std::uint32_t word = w == 0 ? block.v[0] : w == 1 ? block.v[1] : w == 2 ? block.v[2] : block.v[3];
  return word >> (8 * (index % 4)) & 0xFFU;
}
QAT_HOST_DEVICE constexpr float rounding_uniform(std::uint32_t byte) {
  return (static_cast<float>(byte) + 0.5F) * 0x1p-8F;
}
QAT_HOST_DEVICE constexpr float rounding_uniform_at(RngKey key, std::uint64_t index) {
  return rounding_uniform(rounding_byte_at(key, index));
}

}  // namespace qat::kernels
