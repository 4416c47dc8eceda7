#include "src/eval/answer_score.h"

#include <gtest/gtest.h>

#include <vector>

namespace qat {
namespace {

AnswerMatch match(std::string_view answer, const std::vector<std::string_view>& right) {
  return match_answer(answer, right);
}

// What evaluate-v2.0.py's normalize_answer gives.
TEST(NormalizedAnswer, IsThatOfSquadsProgram) {
  EXPECT_EQ(normalized_answer("The  Denver\tBroncos!"), "denver broncos");
  EXPECT_EQ(normalized_answer("an apple a day"), "apple day");
  EXPECT_EQ(normalized_answer("theatre, an-other"), "theatre another");  // punctuation goes first
  EXPECT_EQ(normalized_answer("$1,000.50"), "100050");
  EXPECT_EQ(normalized_answer("  a  "), "");
  EXPECT_EQ(normalized_answer("THE a An"), "");
  EXPECT_EQ(normalized_answer("“the end”"), "“ end”");  // not ASCII: no punctuation, but no letter either
  EXPECT_EQ(normalized_answer("É́cole ŒUVRE Ω Ж ẞ"), "é́cole œuvre ω ж ẞ");
  EXPECT_EQ(normalized_answer("a\u00a0b\u3000c"), "b c");
  EXPECT_EQ(normalized_answer("a_b thé"), "ab thé");
  EXPECT_EQ(normalized_answer(""), "");
}

TEST(MatchAnswer, IsThatOfSquadsProgram) {
  EXPECT_EQ(match("the Broncos", {"Denver", "Broncos."}), (AnswerMatch{1.0, 1.0}));
  // 1 of 2 words right, 1 of 3 found: 2 * 1/2 * 1/3 / (5/6)
  const AnswerMatch part = match("Denver team", {"Denver Broncos win"});
  EXPECT_EQ(part.exact, 0.0);
  EXPECT_DOUBLE_EQ(part.f1, 0.4);
  // Exact match and F1 each take the answer that fits best.
  EXPECT_DOUBLE_EQ(match("x y", {"x", "x y z"}).f1, 0.8);
  EXPECT_DOUBLE_EQ(match("x x", {"x"}).f1, 2.0 / 3);  // a word counts as often as both have it
  EXPECT_EQ(match("x", {"y"}), (AnswerMatch{0.0, 0.0}));
}

TEST(MatchAnswer, NoAnswerIsRightWhereThereIsNone) {
  EXPECT_EQ(match("", {}), (AnswerMatch{1.0, 1.0}));
  EXPECT_EQ(match("the", {}), (AnswerMatch{1.0, 1.0}));
  EXPECT_EQ(match("x", {}), (AnswerMatch{0.0, 0.0}));
  EXPECT_EQ(match("", {"x"}), (AnswerMatch{0.0, 0.0}));
  EXPECT_EQ(match("", {"a", "x"}), (AnswerMatch{0.0, 0.0}));  // "a" has no word left
}

}  // namespace
}  // namespace qat
