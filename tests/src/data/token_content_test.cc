#include "src/data/token_content.h"

#include <gmock/gmock.h>

#include "tests/src/data/data_fixture.h"

namespace qat {
namespace {

using ::testing::AllOf;
using testing::error_message;
using ::testing::HasSubstr;

TokenContent content_of(const std::vector<std::uint16_t>& tokens, int vocab_size = 65536) {
  return read_content(
      std::ssize(tokens),
      [&](std::int64_t offset, std::span<std::uint16_t> out) {
        std::copy_n(tokens.begin() + offset, out.size(), out.begin());
      },
      vocab_size, "a.bin", 1024);
}

TEST(TokenContent, IsTheHashOfTheBytesAndTheLargestId) {
  // Fixed for all time, for checkpoints hold such hashes.
  EXPECT_EQ(content_of({1, 2, 3, 256}), (TokenContent{.hash = 0xa3ce3b82f25d7780, .largest_id = 256}));
  EXPECT_EQ(content_of({}), (TokenContent{.hash = 0x2d06800538d394c2, .largest_id = 0}));
}

TEST(TokenContent, KnowsEveryTokenOfManyBlocks) {
  std::vector<std::uint16_t> tokens(400'000, 7);
  const TokenContent content = content_of(tokens);
  for (const std::size_t at : {0UL, 131'071UL, 131'072UL, 262'143UL, 399'999UL}) {
    std::vector<std::uint16_t> other = tokens;
    other[at] = 8;
    EXPECT_NE(content_of(other).hash, content.hash) << at;
    EXPECT_EQ(content_of(other).largest_id, 8);
  }
  tokens.pop_back();
  EXPECT_NE(content_of(tokens).hash, content.hash);
}

TEST(TokenContent, TheFirstTokenBeyondTheVocabularyIsNamedByOffset) {
  std::vector<std::uint16_t> tokens(300'000, 256);
  EXPECT_NO_THROW((void)content_of(tokens, 257));
  tokens[299'999] = 257;
  tokens[290'000] = 50256;
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { (void)content_of(tokens, 257); }),
              AllOf(HasSubstr("a.bin: at byte 581024 (token 290000)"), HasSubstr("vocabulary of 257, found 50256")));
  EXPECT_NO_THROW((void)content_of(tokens, 50257));
  tokens[0] = 65535;
  EXPECT_NO_THROW((void)content_of(tokens, 65536));
}

}  // namespace
}  // namespace qat
