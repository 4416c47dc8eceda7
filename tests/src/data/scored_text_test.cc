#include "src/data/scored_text.h"

#include <gmock/gmock.h>

#include "kernels/common/error.h"

namespace qat {
namespace {

using ::testing::ElementsAre;

// Words with the blank before them, as GPT-2's tokenizer has them, but "ab" where "a" and "b" meet without one.
class WordTokenizer final : public Tokenizer {
 public:
  int vocab_size() const override { return 8; }
  int end_of_text() const override { return 7; }
  std::string name() const override { return "words"; }

 protected:
  void encode_plain(std::string_view text, std::vector<int>& out) const override {
    while (!text.empty())
      for (int id = 0; id < 7; ++id)
        if (text.starts_with(token_bytes(id))) {
          out.push_back(id);
          text.remove_prefix(token_bytes(id).size());
          break;
        }
  }
  std::string_view token_bytes(int id) const override {
    constexpr std::string_view words[] = {"ab", " a", " b", "a", "b", " ", "\n"};
    return words[id];
  }
};

const WordTokenizer words;

TEST(ScoredText, TheTextsTokensAreScored) {
  const ScoredText got = scored_text(words, "a a", " b b", 10);
  EXPECT_THAT(got.tokens, ElementsAre(3, 1, 2, 2));
  EXPECT_EQ(got.scored, 2);
  EXPECT_EQ(got.inputs(), 3);
  EXPECT_FALSE(got.truncated);
  EXPECT_FALSE(got.merged);
}

TEST(ScoredText, TrailingBlanksOfTheContextBelongToTheText) {
  const ScoredText got = scored_text(words, "a a ", "b", 10);
  EXPECT_THAT(got.tokens, ElementsAre(3, 1, 2));  // " b" is one token
  EXPECT_EQ(got.scored, 1);
  EXPECT_EQ(scored_text(words, "a \n", "b", 10).scored, 3);
}

TEST(ScoredText, ATokenOfBothIsScored) {
  const ScoredText got = scored_text(words, "b a", "b", 10);
  EXPECT_THAT(got.tokens, ElementsAre(4, 1, 4));
  EXPECT_EQ(got.scored, 1);
  const ScoredText one = scored_text(words, "a", "b b", 10);  // "ab" and " b": the context's own token is not there
  EXPECT_THAT(one.tokens, ElementsAre(7, 0, 2));
  EXPECT_EQ(one.scored, 2);
  EXPECT_TRUE(one.merged);
}

TEST(ScoredText, AnEmptyContextIsTheEndOfAText) {
  const ScoredText got = scored_text(words, "", "a b", 10);
  EXPECT_THAT(got.tokens, ElementsAre(7, 3, 2));
  EXPECT_EQ(got.scored, 2);
  EXPECT_FALSE(got.merged);
}

TEST(ScoredText, TheContextIsCutFromTheLeftAndTheTextNever) {
  const ScoredText got = scored_text(words, "a b a b a", " b b", 3);
  EXPECT_THAT(got.tokens, ElementsAre(2, 1, 2, 2));
  EXPECT_EQ(got.scored, 2);
  EXPECT_EQ(got.inputs(), 3);
  EXPECT_TRUE(got.truncated);
  EXPECT_EQ(scored_text(words, "a", " b b b", 3).tokens.size(), 4U);
  EXPECT_THROW((void)scored_text(words, "a", " b b b b", 3), Error);
}

}  // namespace
}  // namespace qat
