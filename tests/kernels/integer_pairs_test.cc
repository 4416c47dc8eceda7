#include "kernels/grad/integer_pairs.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

std::vector<std::int32_t> words_of(const std::vector<std::int16_t>& numbers) {
  std::vector<std::int32_t> words(numbers.size() / 2);
  std::memcpy(words.data(), numbers.data(), numbers.size() * sizeof(std::int16_t));
  return words;
}

std::vector<std::int16_t> numbers_of(const std::vector<std::int32_t>& words) {
  std::vector<std::int16_t> numbers(words.size() * 2);
  std::memcpy(numbers.data(), words.data(), numbers.size() * sizeof(std::int16_t));
  return numbers;
}

TEST(IntegerPairs, AWordIsTheFirstAnd65536TimesTheSecond) {
  std::vector<std::int32_t> words = words_of({3, 2, -3, 2, 3, -2, -3, -2, -32768, 0, 32767, 32767, 0, -1});
  pack_pairs(Exec{}, words);
  constexpr std::int32_t k = 65536;
  EXPECT_EQ(words,
            (std::vector<std::int32_t>{3 + 2 * k, -3 + 2 * k, 3 - 2 * k, -3 - 2 * k, -32768, 32767 + 32767 * k, -k}));
}

// 258 ranks of 8-bit codes: 258 * 127 = 32766 has 16 bits.
TEST(IntegerPairs, SumsOfWordsAreWordsOfSums) {
  const test::ThreadsParallelFor threads(3);
  const Exec exec{.parallel = &threads};
  constexpr std::size_t kNumbers = 200'002;
  std::vector<std::int16_t> expected(kNumbers);
  std::vector<std::int32_t> sums(kNumbers / 2);
  for (int rank = 0; rank < 258; ++rank) {
    std::vector<std::int16_t> codes(kNumbers);
    for (std::size_t i = 0; i < kNumbers; ++i) {
      // Some are the largest of one sign on every rank.
      const int other = (static_cast<int>(i) * 31 + rank * 7919) % 255 - 127;
      codes[i] = static_cast<std::int16_t>(i % 5 == 0 ? 127 : i % 5 == 1 ? -127 : other);
      expected[i] = static_cast<std::int16_t>(expected[i] + codes[i]);
    }
    std::vector<std::int32_t> words = words_of(codes);
    pack_pairs(exec, words);
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += words[i];
  }
  unpack_pairs(exec, sums);
  EXPECT_EQ(numbers_of(sums), expected);
}

TEST(IntegerPairs, NoneAreFew) {
  pack_pairs(Exec{}, {});
  unpack_pairs(Exec{}, {});
}

}  // namespace
}  // namespace qat::kernels
