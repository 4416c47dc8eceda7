#include "kernels/grad/integer_words.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "kernels/common/error.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

template <typename Number>
std::vector<std::int32_t> in_memory(const std::vector<Number>& numbers) {
  std::vector<std::int32_t> data(numbers.size() * sizeof(Number) / sizeof(std::int32_t));
  std::memcpy(data.data(), numbers.data(), numbers.size() * sizeof(Number));
  return data;
}

template <typename Number>
std::vector<Number> numbers_in(const std::vector<std::int32_t>& data) {
  std::vector<Number> numbers(data.size() * sizeof(std::int32_t) / sizeof(Number));
  std::memcpy(numbers.data(), data.data(), numbers.size() * sizeof(Number));
  return numbers;
}

TEST(IntegerWords, OfNumbersByHand) {
  constexpr std::int32_t k = 65536;
  std::vector<std::int32_t> pairs =
      in_memory(std::vector<std::int16_t>{3, 2, -3, 2, 3, -2, -3, -2, -32768, 0, 32767, 32767, 0, -1});
  const std::vector<std::int32_t> before = pairs;
  pack_words(Exec{}, pairs, 16);
  EXPECT_EQ(pairs,
            (std::vector<std::int32_t>{3 + 2 * k, -3 + 2 * k, 3 - 2 * k, -3 - 2 * k, -32768, 32767 + 32767 * k, -k}));
  unpack_words(Exec{}, pairs, 16);
  EXPECT_EQ(pairs, before);

  std::vector<std::int32_t> fours = in_memory(std::vector<std::int8_t>{1, 2, 3, 4, -1, 2, -3, 4, -7, -7, -7, -7});
  pack_words(Exec{}, fours, 8);
  EXPECT_EQ(fours, (std::vector<std::int32_t>{1 + 2 * 256 + 3 * k + 4 * 256 * k, -1 + 2 * 256 - 3 * k + 4 * 256 * k,
                                              -7 - 7 * 256 - 7 * k - 7 * 256 * k}));
}

// As many codes of the largest magnitude as the sums have room for.
template <typename Number>
void add_codes(int ranks, int largest, int bits) {
  const test::ThreadsParallelFor threads(3);
  const Exec exec{.parallel = &threads};
  constexpr std::size_t kNumbers = 300'004;
  std::vector<Number> expected(kNumbers);
  std::vector<std::int32_t> sums(kNumbers * sizeof(Number) / sizeof(std::int32_t));
  for (int rank = 0; rank < ranks; ++rank) {
    std::vector<Number> codes(kNumbers);
    for (std::size_t i = 0; i < kNumbers; ++i) {
      const int other = (static_cast<int>(i) * 31 + rank * 7919) % (2 * largest + 1) - largest;
      codes[i] = static_cast<Number>(i % 5 == 0 ? largest : i % 5 == 1 ? -largest : other);
      expected[i] = static_cast<Number>(expected[i] + codes[i]);
    }
    std::vector<std::int32_t> words = in_memory(codes);
    pack_words(exec, words, bits);
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += words[i];
  }
  unpack_words(exec, sums, bits);
  EXPECT_EQ(numbers_in<Number>(sums), expected);
}

TEST(IntegerWords, SumsOfWordsAreWordsOfSums) {
  add_codes<std::int16_t>(/*ranks=*/258, /*largest=*/127, 16);
  add_codes<std::int8_t>(/*ranks=*/18, /*largest=*/7, 8);
}

TEST(IntegerWords, HaveNumbersOf8Or16Bits) {
  pack_words(Exec{}, {}, 8);
  unpack_words(Exec{}, {}, 16);
  std::vector<std::int32_t> data(3);
  EXPECT_THROW(pack_words(Exec{}, data, 4), Error);
  EXPECT_THROW(unpack_words(Exec{}, data, 32), Error);
}

}  // namespace
}  // namespace qat::kernels
