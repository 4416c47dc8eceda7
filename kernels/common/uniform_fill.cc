#include "kernels/common/uniform_fill.h"

#if QAT_X86_SIMD
#include <immintrin.h>
#endif

namespace qat::kernels {
namespace {

// How one block becomes draws.
struct Words {  // uniform_at
  static constexpr int kRounds = kPhiloxRounds;
  static constexpr int kDraws = 4;
  static float at(RngKey key, std::uint64_t index) { return uniform_at(key, index); }
  static float of(const Philox4& block, int i) { return uniform01(block.v[i]); }
};
struct Halves {  // rounding_uniform_at
  static constexpr int kRounds = kRoundingPhiloxRounds;
  static constexpr int kDraws = 8;
  static float at(RngKey key, std::uint64_t index) { return rounding_uniform_at(key, index); }
  static float of(const Philox4& block, int i) {
    const std::uint32_t word = block.v[i / 2];
    return rounding_uniform(i % 2 == 0 ? word & 0xFFFFU : word >> 16);
  }
};

// out[kDraws * i + d] = draw d of block `block + i`.
template <typename Kind>
void fill_blocks_portable(RngKey key, std::uint64_t block, std::int64_t blocks, float* out) {
  for (std::int64_t i = 0; i < blocks; ++i) {
    const Philox4 words = philox<Kind::kRounds>(key, block + static_cast<std::uint64_t>(i));
    for (int d = 0; d < Kind::kDraws; ++d) out[Kind::kDraws * i + d] = Kind::of(words, d);
  }
}

#if QAT_X86_SIMD
constexpr std::int64_t kChains = 2;        // independent vectors, to hide the latency of the rounds
constexpr std::int64_t kVectorBlocks = 4;  // blocks of one vector
constexpr std::int64_t kStep = kChains * kVectorBlocks;

// One vector holds four blocks: each 64-bit lane carries one 32-bit word in its low half; what stands in the high half
// is ignored by the next multiplication, so it needs no masking.
struct FourBlocks {
  __m256i c0, c1, c2, c3;
};

// Blocks 0 and 1, then 2 and 3, each as its four words in order.
struct BlockPairs {
  __m256i first, second;
};

QAT_TARGET_AVX2 QAT_ALWAYS_INLINE BlockPairs in_order(const FourBlocks& words) {
  const __m256i low = _mm256_set1_epi64x(0xFFFFFFFF);
  const __m256i w01 = _mm256_or_si256(_mm256_and_si256(words.c0, low), _mm256_slli_epi64(words.c1, 32));
  const __m256i w23 = _mm256_or_si256(_mm256_and_si256(words.c2, low), _mm256_slli_epi64(words.c3, 32));
  const __m256i blocks02 = _mm256_unpacklo_epi64(w01, w23), blocks13 = _mm256_unpackhi_epi64(w01, w23);
  return {_mm256_permute2x128_si256(blocks02, blocks13, 0x20), _mm256_permute2x128_si256(blocks02, blocks13, 0x31)};
}

QAT_TARGET_AVX2 QAT_ALWAYS_INLINE void store_draws(Words /*kind*/, const BlockPairs& pairs, float* out) {
  const __m256 unit = _mm256_set1_ps(0x1p-24F);
  _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(pairs.first, 8)), unit));
  _mm256_storeu_ps(out + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(pairs.second, 8)), unit));
}

QAT_TARGET_AVX2 QAT_ALWAYS_INLINE void store_halves(__m128i block, float* out) {
  const __m256 half = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(block));
  _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_add_ps(half, _mm256_set1_ps(0.5F)), _mm256_set1_ps(0x1p-16F)));
}

QAT_TARGET_AVX2 QAT_ALWAYS_INLINE void store_draws(Halves /*kind*/, const BlockPairs& pairs, float* out) {
  store_halves(_mm256_castsi256_si128(pairs.first), out);
  store_halves(_mm256_extracti128_si256(pairs.first, 1), out + 8);
  store_halves(_mm256_castsi256_si128(pairs.second), out + 16);
  store_halves(_mm256_extracti128_si256(pairs.second, 1), out + 24);
}

// blocks: a multiple of kStep.
template <typename Kind>
QAT_TARGET_AVX2 void fill_blocks_avx2(RngKey key, std::uint64_t block, std::int64_t blocks, float* out) {
  constexpr int kRounds = Kind::kRounds;
  __m256i round_keys[kRounds][2];
  std::uint32_t k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
  for (auto& round_key : round_keys) {
    round_key[0] = _mm256_set1_epi64x(k0);
    round_key[1] = _mm256_set1_epi64x(k1);
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  const __m256i mul0 = _mm256_set1_epi64x(0xD2511F53), mul1 = _mm256_set1_epi64x(0xCD9E8D57);
  const __m256i stream_low = _mm256_set1_epi64x(static_cast<std::uint32_t>(key.stream));
  const __m256i stream_high = _mm256_set1_epi64x(static_cast<long long>(key.stream >> 32));
  __m256i counter = _mm256_add_epi64(_mm256_set1_epi64x(static_cast<long long>(block)), _mm256_setr_epi64x(0, 1, 2, 3));
  for (std::int64_t i = 0; i < blocks; i += kStep) {
    FourBlocks state[kChains];
#pragma GCC unroll 2
    for (FourBlocks& s : state) {
      s = {counter, _mm256_srli_epi64(counter, 32), stream_low, stream_high};
      counter = _mm256_add_epi64(counter, _mm256_set1_epi64x(kVectorBlocks));
    }
#pragma GCC unroll 10
    for (int round = 0; round < kRounds; ++round)
#pragma GCC unroll 2
      for (FourBlocks& s : state) {
        const __m256i p0 = _mm256_mul_epu32(s.c0, mul0), p1 = _mm256_mul_epu32(s.c2, mul1);
        s.c0 = _mm256_xor_si256(_mm256_srli_epi64(p1, 32), _mm256_xor_si256(s.c1, round_keys[round][0]));
        s.c2 = _mm256_xor_si256(_mm256_srli_epi64(p0, 32), _mm256_xor_si256(s.c3, round_keys[round][1]));
        s.c1 = p1;
        s.c3 = p0;
      }
#pragma GCC unroll 2
    for (const FourBlocks& s : state) {
      store_draws(Kind{}, in_order(s), out);
      out += Kind::kDraws * kVectorBlocks;
    }
  }
}
#endif

template <typename Kind>
void fill_blocks(RngKey key, std::uint64_t block, std::int64_t blocks, float* out, CpuIsa isa) {
  std::int64_t done = 0;
#if QAT_X86_SIMD
  if (isa == CpuIsa::kAvx2) {
    done = blocks / kStep * kStep;
    fill_blocks_avx2<Kind>(key, block, done, out);
  }
#else
  (void)isa;
#endif
  fill_blocks_portable<Kind>(key, block + static_cast<std::uint64_t>(done), blocks - done, out + Kind::kDraws * done);
}

template <typename Kind>
void fill(RngKey key, std::uint64_t first, std::span<float> out, CpuIsa isa) {
  std::size_t i = 0;
  for (; i < out.size() && (first + i) % Kind::kDraws != 0; ++i) out[i] = Kind::at(key, first + i);
  const std::size_t whole = (out.size() - i) / Kind::kDraws;
  fill_blocks<Kind>(key, (first + i) / Kind::kDraws, static_cast<std::int64_t>(whole), out.data() + i, isa);
  for (i += Kind::kDraws * whole; i < out.size(); ++i) out[i] = Kind::at(key, first + i);
}

}  // namespace

void fill_uniform(RngKey key, std::uint64_t first, std::span<float> out, CpuIsa isa) {
  fill<Words>(key, first, out, isa);
}

void fill_rounding_uniform(RngKey key, std::uint64_t first, std::span<float> out, CpuIsa isa) {
  fill<Halves>(key, first, out, isa);
}

}  // namespace qat::kernels
