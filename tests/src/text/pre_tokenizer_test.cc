#include "src/text/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <string>
#include <vector>

namespace qat {
namespace {

using Pieces = std::vector<std::string>;

Pieces split(std::string_view text, SplitMethod method = SplitMethod::kFast) {
  static const PreTokenPattern pattern;
  const auto state = pattern.make_state();
  PreTokenCursor cursor(text, pattern, *state, method);
  Pieces pieces;
  for (std::string_view piece; cursor.next(piece);) pieces.emplace_back(piece);
  return pieces;
}

// Both ways of splitting, which must agree.
Pieces split_both(std::string_view text) {
  const Pieces fast = split(text);
  EXPECT_EQ(fast, split(text, SplitMethod::kPcreOnly)) << text;
  return fast;
}

TEST(PreTokenizer, CutsWordsNumbersPunctuationAndSpacesAsGpt2Does) {
  EXPECT_EQ(split_both(""), Pieces{});
  EXPECT_EQ(split_both("Hello world 42!"), (Pieces{"Hello", " world", " 42", "!"}));
  EXPECT_EQ(split_both("abc123def"), (Pieces{"abc", "123", "def"}));
  EXPECT_EQ(split_both("a  b"), (Pieces{"a", " ", " b"}));
  EXPECT_EQ(split_both("a\n\n  b "), (Pieces{"a", "\n\n ", " b", " "}));
  EXPECT_EQ(split_both("a\nb\r\nc"), (Pieces{"a", "\n", "b", "\r", "\n", "c"}));
  EXPECT_EQ(split_both("x   "), (Pieces{"x", "   "}));
  EXPECT_EQ(split_both(" !?a"), (Pieces{" !?", "a"}));
}

TEST(PreTokenizer, CutsLowerCaseContractionsOnlyAtThePieceStart) {
  EXPECT_EQ(split_both("don't we'll I'm they've she'd you're it's"),
            (Pieces{"don", "'t", " we", "'ll", " I", "'m", " they", "'ve", " she", "'d", " you", "'re", " it", "'s"}));
  EXPECT_EQ(split_both("'S 's"), (Pieces{"'", "S", " '", "s"}));
  EXPECT_EQ(split_both("!'s"), (Pieces{"!'", "s"}));
  EXPECT_EQ(split_both("'start 'l 'r"), (Pieces{"'s", "tart", " '", "l", " '", "r"}));
  EXPECT_EQ(split_both("'"), Pieces{"'"});
  EXPECT_EQ(split_both("'r"), (Pieces{"'", "r"}));
}

TEST(PreTokenizer, KnowsLettersNumbersAndSpacesBeyondAscii) {
  EXPECT_EQ(split_both("naïve café"), (Pieces{"naïve", " café"}));
  EXPECT_EQ(split_both("x² ½"), (Pieces{"x", "²", " ½"}));
  EXPECT_EQ(split_both("日本 語。"), (Pieces{"日本", " 語", "。"}));
  EXPECT_EQ(split_both("a\u00A0b"), (Pieces{"a", "\u00A0", "b"}));
  EXPECT_EQ(split_both("a \u00A0 b"), (Pieces{"a", " \u00A0", " b"}));
  EXPECT_EQ(split_both("e\u0301a"), (Pieces{"e", "\u0301", "a"}));  // a combining mark is no letter
  EXPECT_EQ(split_both("a\u180E!"), (Pieces{"a", "\u180E!"}));      // not white space since Unicode 6.3
  EXPECT_EQ(split_both("🙂 🚀🚀"), (Pieces{"🙂", " 🚀🚀"}));
}

TEST(PreTokenizer, MakesOnePieceOfEveryRunThatIsNotUtf8) {
  EXPECT_EQ(split_both("ab\xFF\xFE cd"), (Pieces{"ab", "\xFF\xFE", " cd"}));
  EXPECT_EQ(split_both("a  \xFF"), (Pieces{"a", "  ", "\xFF"}));          // the run before it ends there
  EXPECT_EQ(split_both("caf\xC3"), (Pieces{"caf", "\xC3"}));              // cut in the middle of a character
  EXPECT_EQ(split_both("\xED\xA0\x80z"), (Pieces{"\xED\xA0\x80", "z"}));  // a surrogate
  EXPECT_EQ(split_both("\xC0\xAF"), (Pieces{"\xC0\xAF"}));                // an overlong form
  EXPECT_EQ(split_both(std::string_view("a\0b", 3)), (Pieces{"a", std::string(1, '\0'), "b"}));
}

TEST(PreTokenizer, Utf8LengthsFollowRfc3629) {
  EXPECT_EQ(utf8_character_length("a"), 1U);
  EXPECT_EQ(utf8_character_length("\xC2\x80"), 2U);
  EXPECT_EQ(utf8_character_length("\xE0\xA0\x80"), 3U);
  EXPECT_EQ(utf8_character_length("\xED\x9F\xBF"), 3U);
  EXPECT_EQ(utf8_character_length("\xF4\x8F\xBF\xBF"), 4U);
  for (const char* bad : {"", "\x80", "\xC1\xBF", "\xC2", "\xC2z", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xE1\x80",
                          "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xF1\x80\x80", "\xFF"}) {
    EXPECT_EQ(utf8_character_length(bad), 0U) << bad;
  }
}

constexpr const char* kAtoms[] = {"a",      "Z",    "s",    "ll", "re",     "'",      "'",      " ",       " ",
                                  "  ",     "\n",   "\r\n", "\t", "7",      "!",      "_",      "\x1C",    "\x7F",
                                  "é",      "日",   "🙂", "½",  "\u0301", "\u00A0", "\u2003", "\u180E",  "\u0085",
                                  "\u3000", "\xFF", "\xC3", "\v", "٣",      "ǅ",      "\uFEFF", "\xE2\x80"};

TEST(PreTokenizer, FastPathEqualsPcreOnRandomText) {
  std::mt19937 random(3);
  for (int i = 0; i < 30000; ++i) {
    std::string text;
    const unsigned ascii_only = random() % 3;  // a third of the texts; their pieces never meet PCRE2 on the fast path
    for (unsigned n = random() % 20; n > 0; --n) {
      text += kAtoms[random() % (ascii_only == 0 ? 18 : std::size(kAtoms))];
    }
    if (random() % 16 == 0) text.push_back('\0');
    const Pieces pieces = split(text);
    ASSERT_EQ(pieces, split(text, SplitMethod::kPcreOnly)) << "text " << ::testing::PrintToString(text);
    std::string joined;
    for (const std::string& piece : pieces) joined += piece;
    ASSERT_EQ(joined, text);
  }
}

TEST(PreTokenizer, FastPathEqualsPcreOnRandomBytes) {
  std::mt19937 random(5);
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    for (unsigned n = random() % 12; n > 0; --n) text.push_back(static_cast<char>(random()));
    ASSERT_EQ(split(text), split(text, SplitMethod::kPcreOnly)) << ::testing::PrintToString(text);
  }
}

TEST(PreTokenizer, TextMayBeCutAtACertainBoundary) {
  std::mt19937 random(9);
  int cuts = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    for (unsigned n = 2 + random() % 8; n > 0; --n) text += kAtoms[random() % std::size(kAtoms)];
    for (std::size_t at = 1; at < text.size(); ++at) {
      if (!is_certain_boundary(text, at)) continue;
      ++cuts;
      Pieces pieces = split(std::string_view(text).substr(0, at));
      const Pieces rest = split(std::string_view(text).substr(at));
      pieces.insert(pieces.end(), rest.begin(), rest.end());
      ASSERT_EQ(pieces, split(text)) << ::testing::PrintToString(text) << " at " << at;
    }
  }
  EXPECT_GT(cuts, 10000);
  EXPECT_TRUE(is_certain_boundary("日本\n", 6));
  EXPECT_TRUE(is_certain_boundary("語。\n", 6));
  EXPECT_FALSE(is_certain_boundary("a \n", 2));
  EXPECT_FALSE(is_certain_boundary("a\u3000\n", 4));
}

TEST(PreTokenizer, LongRunsTakeLinearTime) {
  // 4 MB each: a quadratic scan would take hours.
  std::string alternating;  // every piece is followed by a byte that is not UTF-8
  while (alternating.size() < 4'000'000) alternating += "ab\xFF ";
  std::string wide_spaces;
  while (wide_spaces.size() < 4'000'000) wide_spaces += "\u2003";
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(split(std::string(4'000'000, 'a') + "é").size(), 1U);
  EXPECT_EQ(split(std::string(4'000'000, ' ') + "é").size(), 2U);
  EXPECT_EQ(split(wide_spaces + "x").size(), 3U);
  EXPECT_EQ(split(std::string(4'000'000, '\xFF')).size(), 1U);
  EXPECT_EQ(split(alternating).size(), 2'000'001U);  // "ab", then "\xFF", " ab", ..., " "
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
}

}  // namespace
}  // namespace qat
