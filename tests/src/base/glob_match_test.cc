#include "src/base/glob_match.h"

#include <gtest/gtest.h>

#include <string>

namespace qat {
namespace {

TEST(GlobMatch, TakesPlainTextLiterallyAndWhole) {
  EXPECT_TRUE(glob_match("lm_head", "lm_head"));
  EXPECT_FALSE(glob_match("lm_head", "lm_hea"));
  EXPECT_FALSE(glob_match("lm_hea", "lm_head"));
  EXPECT_TRUE(glob_match("", ""));
  EXPECT_FALSE(glob_match("", "x"));
}

TEST(GlobMatch, StarStandsForAnyRunOfCharacters) {
  EXPECT_TRUE(glob_match("h.*.mlp.c_proj", "h.11.mlp.c_proj"));
  EXPECT_FALSE(glob_match("h.*.mlp.c_proj", "h.11.attn.c_proj"));
  EXPECT_TRUE(glob_match("*c_proj", "h.0.attn.c_proj"));
  EXPECT_TRUE(glob_match("h.0.*", "h.0.attn.c_attn"));
  EXPECT_TRUE(glob_match("*", ""));
  EXPECT_TRUE(glob_match("a**b", "ab"));
  EXPECT_TRUE(glob_match("*ab*ab*", "aabxab"));  // the first star must give characters back
  EXPECT_FALSE(glob_match("*ab*ab*", "aabxa"));
}

TEST(GlobMatch, QuestionMarkAndSetsStandForOneCharacter) {
  EXPECT_TRUE(glob_match("h.?.attn.*", "h.7.attn.c_attn"));
  EXPECT_FALSE(glob_match("h.?.attn.*", "h.11.attn.c_attn"));
  EXPECT_TRUE(glob_match("h.[0-3].*", "h.2.mlp.c_fc"));
  EXPECT_FALSE(glob_match("h.[0-3].*", "h.4.mlp.c_fc"));
  EXPECT_TRUE(glob_match("h.[!0-3].*", "h.4.mlp.c_fc"));
  EXPECT_TRUE(glob_match("h.[02].*", "h.2.x"));
  EXPECT_FALSE(glob_match("h.[02].*", "h.1.x"));
  EXPECT_TRUE(glob_match("[]]", "]"));
  EXPECT_TRUE(glob_match("[a-]", "-"));
}

TEST(GlobMatch, AnUnclosedSetIsABracket) {
  EXPECT_TRUE(glob_match("h[", "h["));
  EXPECT_FALSE(glob_match("h[0", "h0"));
  EXPECT_TRUE(glob_match("[", "["));
}

TEST(GlobMatch, StaysPolynomialOnManyStars) {
  std::string pattern;
  for (int i = 0; i < 40; ++i) pattern += "a*";
  EXPECT_FALSE(glob_match(pattern + "b", std::string(2000, 'a')));
}

}  // namespace
}  // namespace qat
