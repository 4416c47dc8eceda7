#include "src/data/sampler.h"

#include <gmock/gmock.h>

#include <map>
#include <set>

#include "tests/src/data/data_fixture.h"

namespace qat {
namespace {

using ::testing::AllOf;
using testing::error_message;
using ::testing::HasSubstr;

// Segments of these lengths; token i of a segment is 10,000 * segment + i.
TokenSource counting_source(const std::vector<int>& lengths) {
  TokenSource source;
  int base = 0;
  for (const int length : lengths) {
    std::vector<std::uint16_t> tokens;
    for (int i = 0; i < length; ++i) tokens.push_back(static_cast<std::uint16_t>(base + i));
    source.add_tokens("segment", std::move(tokens));
    base += 10000;
  }
  return source;
}

struct Sample {
  std::vector<std::int32_t> inputs, targets;
  friend bool operator==(const Sample&, const Sample&) = default;
};

Sample sample(const Sampler& sampler, std::uint64_t n) {
  const auto length = static_cast<std::size_t>(sampler.sequence_length());
  Sample s{std::vector<std::int32_t>(length), std::vector<std::int32_t>(length)};
  sampler.sample(n, s.inputs, s.targets);
  return s;
}

TEST(Permutation, VisitsEveryIndexOnceAtEverySize) {
  for (std::uint64_t size = 1; size < 200; ++size) {
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
      std::set<std::uint64_t> seen;
      for (std::uint64_t i = 0; i < size; ++i) {
        const std::uint64_t to = permuted(i, size, {.seed = seed, .stream = 1});
        EXPECT_LT(to, size);
        seen.insert(to);
      }
      EXPECT_EQ(seen.size(), size);
    }
  }
  EXPECT_LT(permuted((std::uint64_t{1} << 40) - 1, std::uint64_t{1} << 40, {.seed = 1, .stream = 1}),
            std::uint64_t{1} << 40);
}

TEST(Permutation, MovesIndicesAsFarAsChanceWould) {
  // The mean |i - p(i)| of a random permutation of n is n / 3; standard error about 0.24 n / sqrt(n) = 7.6 here.
  constexpr std::uint64_t kSize = 1000;
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    double moved = 0;
    for (std::uint64_t i = 0; i < kSize; ++i) {
      moved += std::abs(static_cast<double>(i) - static_cast<double>(permuted(i, kSize, {.seed = seed, .stream = 0})));
    }
    EXPECT_NEAR(moved / kSize, kSize / 3.0, 40.0);
  }
}

TEST(Sampler, TargetsAreTheInputsMovedByOneInsideOneSegment) {
  const TokenSource source = counting_source({500, 95, 7, 300});
  const Sampler sampler(source, 10, 42);
  for (std::uint64_t n = 0; n < 300; ++n) {
    const Sample s = sample(sampler, n);
    for (std::size_t i = 0; i < 10; ++i) {
      EXPECT_EQ(s.inputs[i], s.inputs[0] + static_cast<int>(i));  // a border would show as a jump of thousands
      EXPECT_EQ(s.targets[i], s.inputs[i] + 1);
    }
  }
}

TEST(Sampler, EveryWindowComesOnceAnEpochAndNoTokenIsATargetTwice) {
  const TokenSource source = counting_source({500, 95, 7, 11, 10});
  const Sampler sampler(source, 10, 3);
  // 499 / 10 = 49 windows, one given up for the phase; 94 / 10 = 9; 0; 1; 0.
  EXPECT_EQ(sampler.windows_per_epoch(), 48 + 9 + 0 + 1 + 0);
  std::set<int> phases_long, phases_short;
  for (std::uint64_t epoch = 0; epoch < 60; ++epoch) {
    std::map<int, int> targets;
    std::set<std::int64_t> starts;
    for (std::uint64_t i = 0; i < 58; ++i) {
      const Sampler::Place place = sampler.place(epoch * 58 + i);
      starts.insert(static_cast<std::int64_t>(place.segment) * 100000 + place.offset);
      for (const std::int32_t token : sample(sampler, epoch * 58 + i).targets) ++targets[token];
    }
    EXPECT_EQ(starts.size(), 58U);
    EXPECT_EQ(targets.size(), 580U);
    for (const auto& [token, count] : targets) EXPECT_EQ(count, 1) << token;
    phases_long.insert(static_cast<int>(*starts.begin()));
    phases_short.insert(static_cast<int>(*starts.lower_bound(100000) - 100000));
  }
  EXPECT_EQ(phases_long.size(), 10U);                                // every phase of a long segment
  EXPECT_THAT(phases_short, ::testing::ElementsAre(0, 1, 2, 3, 4));  // only the 4 tokens over in a short one
}

TEST(Sampler, OrderChangesFromEpochToEpochAndFromSeedToSeed) {
  const TokenSource source = counting_source({1001});
  const Sampler a(source, 10, 1), again(source, 10, 1), b(source, 10, 2);
  const auto epoch = static_cast<std::uint64_t>(a.windows_per_epoch());
  int same_place_next_epoch = 0, same_place_other_seed = 0;
  for (std::uint64_t n = 0; n < epoch; ++n) {
    EXPECT_EQ(sample(a, n), sample(again, n));
    same_place_next_epoch += a.place(n).offset / 10 == a.place(n + epoch).offset / 10;
    same_place_other_seed += a.place(n).offset / 10 == b.place(n).offset / 10;
  }
  EXPECT_LT(same_place_next_epoch, 10);  // about 1 of 99 by chance
  EXPECT_LT(same_place_other_seed, 10);
}

TEST(Sampler, ValuesAreFixedForAllTime) {  // a change here would break the resumption of running jobs
  const TokenSource source = counting_source({1000, 500});
  const Sampler sampler(source, 16, 1234);
  std::vector<std::int32_t> first;
  for (const std::uint64_t n : {0ULL, 1ULL, 2ULL, 91ULL, 92ULL, 1000000ULL})
    first.push_back(sample(sampler, n).inputs[0]);
  EXPECT_THAT(first, ::testing::ElementsAre(435, 403, 227, 878, 10014, 865));
}

TEST(Sampler, TooLittleTextIsADataErrorWithTheNumbers) {
  const TokenSource source = counting_source({10, 4});
  EXPECT_EQ(Sampler(source, 9, 0).windows_per_epoch(), 1);
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { Sampler(source, 10, 0); }),
              AllOf(HasSubstr("needs 11 tokens"), HasSubstr("has 10")));
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { Sampler(TokenSource(), 10, 0); }), HasSubstr("has 0"));
}

}  // namespace
}  // namespace qat
