#include "kernels/common/uniform_fill.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <thread>
#include <vector>

#include "kernels/common/normal_draw.h"

#if QAT_X86_SIMD
#include <immintrin.h>
#endif

namespace qat::kernels {
namespace {

constexpr std::size_t kDrawsOfThread = std::size_t{1} << 20;  // fewer are drawn faster than a thread starts

// How one block becomes draws.
struct Words {  // uniform_at
  static constexpr int kRounds = kPhiloxRounds;
  static constexpr int kDraws = 4;
  void draw(const Philox4& block, float* out) const {
    for (int i = 0; i < kDraws; ++i) out[i] = uniform01(block.v[i]);
  }
};
struct Bytes {  // rounding_uniform_at
  static constexpr int kRounds = kRoundingPhiloxRounds;
  static constexpr int kDraws = kRoundingDraws;
  void draw(const Philox4& block, float* out) const {
    for (int i = 0; i < kDraws; ++i) out[i] = rounding_uniform(block.v[i / 4] >> (8 * (i % 4)) & 0xFFU);
  }
};
struct Normals {
  static constexpr int kRounds = kPhiloxRounds;
  static constexpr int kDraws = kNormalDraws;
  double stddev;
  void draw(const Philox4& block, float* out) const { normal_draws(block, stddev, out); }
};

// out[kDraws * i + d] = draw d of block `block + i`.
template <typename Kind>
void fill_blocks_portable(const Kind& kind, RngKey key, std::uint64_t block, std::int64_t blocks, float* out) {
  for (std::int64_t i = 0; i < blocks; ++i)
    kind.draw(philox<Kind::kRounds>(key, block + static_cast<std::uint64_t>(i)), out + Kind::kDraws * i);
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

QAT_TARGET_AVX2 QAT_ALWAYS_INLINE void store_draws(const Words& /*kind*/, const FourBlocks& blocks, float* out) {
  const BlockPairs pairs = in_order(blocks);
  const __m256 unit = _mm256_set1_ps(0x1p-24F);
  _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(pairs.first, 8)), unit));
  _mm256_storeu_ps(out + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(pairs.second, 8)), unit));
}

QAT_TARGET_AVX2 QAT_ALWAYS_INLINE void store_bytes(__m128i block, float* out) {
  const __m256 low = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(block));
  const __m256 high = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(block, 8)));
  const __m256 half = _mm256_set1_ps(0.5F), unit = _mm256_set1_ps(0x1p-8F);
  _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_add_ps(low, half), unit));
  _mm256_storeu_ps(out + 8, _mm256_mul_ps(_mm256_add_ps(high, half), unit));
}

QAT_TARGET_AVX2 QAT_ALWAYS_INLINE void store_draws(const Bytes& /*kind*/, const FourBlocks& blocks, float* out) {
  const BlockPairs pairs = in_order(blocks);
  store_bytes(_mm256_castsi256_si128(pairs.first), out);
  store_bytes(_mm256_extracti128_si256(pairs.first, 1), out + 16);
  store_bytes(_mm256_castsi256_si128(pairs.second), out + 32);
  store_bytes(_mm256_extracti128_si256(pairs.second, 1), out + 48);
}

QAT_TARGET_AVX2 QAT_ALWAYS_INLINE __m256d times(__m256d a, __m256d b) { return _mm256_mul_pd(a, b); }
QAT_TARGET_AVX2 QAT_ALWAYS_INLINE __m256d constant(double value) { return _mm256_set1_pd(value); }
QAT_TARGET_AVX2 QAT_ALWAYS_INLINE __m256i constant(long long value) { return _mm256_set1_epi64x(value); }
// Whole numbers below 2^52, exactly: they become the mantissa of 2^52 + value.
QAT_TARGET_AVX2 QAT_ALWAYS_INLINE __m256d to_double(__m256i values) {
  return _mm256_sub_pd(_mm256_castsi256_pd(_mm256_or_si256(values, constant(0x4330000000000000LL))), constant(0x1p52));
}

// natural_log of four, operation by operation.
QAT_TARGET_AVX2 QAT_ALWAYS_INLINE __m256d natural_log(__m256d x) {
  const __m256i bits = _mm256_castpd_si256(x);
  __m256d exponent = _mm256_sub_pd(to_double(_mm256_srli_epi64(bits, 52)), constant(1022.0));
  __m256d m = _mm256_castsi256_pd(
      _mm256_or_si256(_mm256_and_si256(bits, constant(0x000FFFFFFFFFFFFFLL)), constant(0x3FE0000000000000LL)));
  const __m256d small = _mm256_cmp_pd(m, constant(std::numbers::sqrt2 / 2), _CMP_LT_OQ);
  m = _mm256_blendv_pd(m, times(m, constant(2.0)), small);
  exponent = _mm256_sub_pd(exponent, _mm256_and_pd(small, constant(1.0)));
  const __m256d s = _mm256_div_pd(_mm256_sub_pd(m, constant(1.0)), _mm256_add_pd(m, constant(1.0)));
  const __m256d s2 = times(s, s);
  __m256d sum = _mm256_setzero_pd();
#pragma GCC unroll 12
  for (int k = 23; k >= 1; k -= 2) sum = _mm256_add_pd(times(sum, s2), constant(1.0 / k));
  return _mm256_add_pd(times(times(constant(2.0), s), sum), times(exponent, constant(std::numbers::ln2)));
}

struct FourTurns {
  __m256d cos, sin;
};

// cos_sin of the low halves of four, operation by operation.
QAT_TARGET_AVX2 QAT_ALWAYS_INLINE FourTurns cos_sin(__m256i turn) {
  const __m256i within = _mm256_and_si256(turn, constant(0x3FFFFFFFLL));
  const __m256i upper = _mm256_cmpgt_epi64(within, constant(0x20000000LL));
  const __m256i rest = _mm256_blendv_epi8(within, _mm256_sub_epi64(constant(0x40000000LL), within), upper);
  const __m256d angle = times(to_double(rest), constant(std::numbers::pi / 2 * 0x1p-30));
  const __m256d a2 = times(angle, angle);
  __m256d c = constant(1.0), s = constant(1.0);
#pragma GCC unroll 11
  for (int k = 11; k >= 1; --k) {
    c = _mm256_sub_pd(constant(1.0), _mm256_div_pd(times(c, a2), constant((2.0 * k - 1) * (2.0 * k))));
    s = _mm256_sub_pd(constant(1.0), _mm256_div_pd(times(s, a2), constant((2.0 * k) * (2.0 * k + 1))));
  }
  s = times(s, angle);
  // They change places beyond 45 degrees and in odd quadrants. cos is negative in quadrants 1 and 2, sin in 2 and 3.
  const __m256i odd = _mm256_slli_epi64(turn, 33), half = _mm256_slli_epi64(turn, 32);  // in the sign bit
  const __m256d swapped = _mm256_castsi256_pd(_mm256_xor_si256(odd, upper));
  const __m256d sign = constant(-0.0);
  const __m256d cos_sign = _mm256_and_pd(_mm256_castsi256_pd(_mm256_xor_si256(odd, half)), sign);
  const __m256d sin_sign = _mm256_and_pd(_mm256_castsi256_pd(half), sign);
  return {_mm256_xor_pd(_mm256_blendv_pd(c, s, swapped), cos_sign),
          _mm256_xor_pd(_mm256_blendv_pd(s, c, swapped), sin_sign)};
}

struct NormalPairs {  // of four blocks
  __m128 first, second;
};

QAT_TARGET_AVX2 QAT_ALWAYS_INLINE NormalPairs normal_pairs(__m256i magnitude, __m256i turn, __m256d stddev) {
  const __m256d whole = to_double(_mm256_and_si256(magnitude, constant(0xFFFFFFFFLL)));
  const __m256d u = times(_mm256_add_pd(whole, constant(1.0)), constant(0x1p-32));
  const __m256d radius = _mm256_sqrt_pd(times(constant(-2.0), natural_log(u)));
  const FourTurns at = cos_sin(turn);
  return {_mm256_cvtpd_ps(times(stddev, times(radius, at.cos))), _mm256_cvtpd_ps(times(stddev, times(radius, at.sin)))};
}

QAT_TARGET_AVX2 QAT_ALWAYS_INLINE void store_draws(const Normals& kind, const FourBlocks& blocks, float* out) {
  const __m256d stddev = constant(kind.stddev);
  auto [a, b] = normal_pairs(blocks.c0, blocks.c1, stddev);
  auto [c, d] = normal_pairs(blocks.c2, blocks.c3, stddev);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(out, a);
  _mm_storeu_ps(out + 4, b);
  _mm_storeu_ps(out + 8, c);
  _mm_storeu_ps(out + 12, d);
}

// blocks: a multiple of kStep.
template <typename Kind>
QAT_TARGET_AVX2 void fill_blocks_avx2(const Kind& kind, RngKey key, std::uint64_t block, std::int64_t blocks,
                                      float* out) {
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
      store_draws(kind, s, out);
      out += Kind::kDraws * kVectorBlocks;
    }
  }
}
#endif

template <typename Kind>
void fill_blocks(const Kind& kind, RngKey key, std::uint64_t block, std::int64_t blocks, float* out, CpuIsa isa) {
  std::int64_t done = 0;
#if QAT_X86_SIMD
  if (isa == CpuIsa::kAvx2) {
    done = blocks / kStep * kStep;
    fill_blocks_avx2(kind, key, block, done, out);
  }
#else
  (void)isa;
#endif
  fill_blocks_portable(kind, key, block + static_cast<std::uint64_t>(done), blocks - done, out + Kind::kDraws * done);
}

// The draws of one block from draw first % kDraws on.
template <typename Kind>
void fill_part(const Kind& kind, RngKey key, std::uint64_t first, std::span<float> out) {
  float draws[Kind::kDraws];
  kind.draw(philox<Kind::kRounds>(key, first / Kind::kDraws), draws);
  std::copy_n(draws + first % Kind::kDraws, out.size(), out.data());
}

template <typename Kind>
void fill(const Kind& kind, RngKey key, std::uint64_t first, std::span<float> out, CpuIsa isa) {
  if (const std::uint64_t within = first % Kind::kDraws; within != 0 && !out.empty()) {
    const std::size_t n = std::min<std::size_t>(Kind::kDraws - within, out.size());
    fill_part(kind, key, first, out.first(n));
    first += n;
    out = out.subspan(n);
  }
  const std::size_t blocks = out.size() / Kind::kDraws;
  fill_blocks(kind, key, first / Kind::kDraws, static_cast<std::int64_t>(blocks), out.data(), isa);
  const std::span<float> rest = out.subspan(Kind::kDraws * blocks);
  if (!rest.empty()) fill_part(kind, key, first + Kind::kDraws * blocks, rest);
}

// Many draws by several threads, each a range: a draw depends on its index alone.
template <typename Kind>
void fill_in_parallel(const Kind& kind, RngKey key, std::uint64_t first, std::span<float> out, CpuIsa isa) {
  constexpr std::size_t kMaxThreads = 16;
  const std::size_t cores = std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, kMaxThreads);
  const std::size_t threads = std::min(cores, out.size() / kDrawsOfThread + 1);
  const std::size_t part = (out.size() + threads - 1) / threads;
  std::vector<std::jthread> helpers;
  for (std::size_t begin = part; begin < out.size(); begin += part) {
    const std::span<float> range = out.subspan(begin, std::min(part, out.size() - begin));
    helpers.emplace_back([=] { fill(kind, key, first + begin, range, isa); });
  }
  fill(kind, key, first, out.first(std::min(part, out.size())), isa);
}

}  // namespace

void fill_uniform(RngKey key, std::uint64_t first, std::span<float> out, CpuIsa isa) {
  fill_in_parallel(Words{}, key, first, out, isa);
}

void fill_normal(RngKey key, std::uint64_t first, float stddev, std::span<float> out, CpuIsa isa) {
  fill_in_parallel(Normals{stddev}, key, first, out, isa);
}

void fill_rounding_uniform(RngKey key, std::uint64_t first, std::span<float> out, CpuIsa isa) {
  fill(Bytes{}, key, first, out, isa);
}

}  // namespace qat::kernels
