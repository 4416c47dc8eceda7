#include "src/data/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "kernels/common/error.h"
#include "src/base/rng.h"

namespace qat {
namespace {

constexpr std::int64_t kPhaseWindows = 16;  // from this many windows on, one is given up for the phase

// Slots of RngPurpose::kSampling; the step part of the key is the epoch.
enum Slot : std::uint64_t { kOrder = 0, kPhase = 1 };

// 0 .. bound - 1 from 64 random bits by their high part (Lemire); the bias is below bound / 2^64.
std::uint64_t scaled(std::uint64_t random, std::uint64_t bound) {
  __extension__ using uint128 = unsigned __int128;
  return static_cast<std::uint64_t>(uint128{random} * bound >> 64);
}

std::uint64_t random_bits(kernels::RngKey key, std::uint64_t counter) {
  const kernels::Philox4 block = kernels::philox(key, counter);
  return std::uint64_t{block.v[0]} << 32 | block.v[1];
}

}  // namespace

std::uint64_t permuted(std::uint64_t index, std::uint64_t size, kernels::RngKey key) {
  QAT_CHECK(index < size, "an index is permuted inside its range");
  constexpr std::uint64_t kRounds = 6;
  const int half_bits = (std::bit_width(size - 1) + 1) / 2;
  const std::uint64_t mask = (std::uint64_t{1} << half_bits) - 1;
  do {
    std::uint64_t left = index >> half_bits, right = index & mask;
    for (std::uint64_t round = 0; round < kRounds; ++round) {
      const std::uint64_t mixed = left ^ (random_bits(key, round << 32 | right) & mask);
      left = right;
      right = mixed;
    }
    index = left << half_bits | right;
  } while (index >= size);
  return index;
}

Sampler::Sampler(const TokenSource& source, std::int64_t sequence_length, std::uint64_t seed)
    : source_(source), sequence_length_(sequence_length), seed_(seed) {
  QAT_CHECK(sequence_length > 0, "a window has at least one token");
  std::int64_t longest = 0;
  for (std::size_t i = 0; i < source.segments().size(); ++i) {
    const std::int64_t tokens = source.segments()[i].tokens;
    longest = std::max(longest, tokens);
    const std::int64_t windows = (tokens - 1) / sequence_length;
    if (windows < 1) continue;
    const bool give_one_up = windows >= kPhaseWindows;
    const std::int64_t left_over = (tokens - 1) - windows * sequence_length;
    segments_.push_back({i, windows_, give_one_up ? sequence_length : left_over + 1});
    windows_ += give_one_up ? windows - 1 : windows;
  }
  if (windows_ == 0) {
    throw Error(
        ErrorKind::kData,
        fmt::format("too little text: a sample needs {} tokens in a row (data.sequence_length {} and one more), the "
                    "longest of the {} training shards has {}",
                    sequence_length + 1, sequence_length, source.segments().size(), longest));
  }
}

Sampler::Place Sampler::place(std::uint64_t n) const {
  const auto windows = static_cast<std::uint64_t>(windows_);
  const std::uint64_t epoch = n / windows;
  const auto window = static_cast<std::int64_t>(
      permuted(n % windows, windows, rng_key(seed_, RngPurpose::kSampling, epoch, 0, kOrder)));
  const auto segment = std::upper_bound(segments_.begin(), segments_.end(), window,
                                        [](std::int64_t w, const SegmentWindows& s) { return w < s.first; }) -
                       1;
  const std::uint64_t phase =
      scaled(random_bits(rng_key(seed_, RngPurpose::kSampling, epoch, 0, kPhase), segment->segment),
             static_cast<std::uint64_t>(segment->phases));
  return {segment->segment, (window - segment->first) * sequence_length_ + static_cast<std::int64_t>(phase)};
}

void Sampler::sample(std::uint64_t n, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) const {
  const auto length = static_cast<std::size_t>(sequence_length_);
  QAT_CHECK(inputs.size() == length && targets.size() == length, "a sample fills inputs and targets exactly");
  const Place at = place(n);
  std::vector<std::uint16_t> tokens(length + 1);
  source_.read(at.segment, at.offset, tokens);
  std::copy_n(tokens.begin(), length, inputs.begin());
  std::copy_n(tokens.begin() + 1, length, targets.begin());
}

}  // namespace qat
