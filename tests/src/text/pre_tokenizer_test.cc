#include "src/text/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "src/text/character_class.h"
#include "src/text/utf8.h"

namespace qat {
namespace {

using Pieces = std::vector<std::string>;

Pieces split(std::string_view text) {
  PreTokenCursor cursor(text);
  Pieces pieces;
  for (std::string_view piece; cursor.next(piece);) pieces.emplace_back(piece);
  return pieces;
}

// The pattern as it is written, alternative by alternative, over a run of UTF-8: slow and plain.
class WrittenPattern {
 public:
  explicit WrittenPattern(std::string_view text) {
    for (std::size_t at = 0; at < text.size();) {
      const Utf8Character c = first_character(text.substr(at));
      characters_.emplace_back(text.substr(at, c.length));
      classes_.push_back(class_of(c.value));
      at += c.length;
    }
  }

  Pieces pieces() const {
    Pieces out;
    for (std::size_t at = 0; at < characters_.size();) {
      std::size_t end = 0;
      for (const char* word : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
        if (end == 0) end = literal(at, word);
      }
      for (const auto kind : {CharacterClass::kLetter, CharacterClass::kNumber, CharacterClass::kOther}) {
        if (end == 0) end = run(characters_[at] == " " ? at + 1 : at, kind);
        if (end == 0) end = run(at, kind);
      }
      const std::size_t spaces = run(at, CharacterClass::kSpace);
      for (std::size_t stop = spaces; end == 0 && stop > at; --stop) {
        const bool non_space_follows = stop < classes_.size() && classes_[stop] != CharacterClass::kSpace;
        if (!non_space_follows) end = stop;
      }
      if (end == 0) end = spaces;
      std::string piece;
      for (; at < end; ++at) piece += characters_[at];
      out.push_back(piece);
    }
    return out;
  }

 private:
  // Where a match from `at` on ends; 0: there is none.
  std::size_t literal(std::size_t at, std::string_view word) const {
    for (const char c : word) {
      if (at == characters_.size() || characters_[at++] != std::string(1, c)) return 0;
    }
    return at;
  }
  std::size_t run(std::size_t at, CharacterClass kind) const {
    std::size_t end = at;
    while (end < classes_.size() && classes_[end] == kind) ++end;
    return end > at ? end : 0;
  }

  std::vector<std::string> characters_;
  std::vector<CharacterClass> classes_;
};

// Runs that are not UTF-8 are pieces of their own.
Pieces split_as_written(std::string_view text) {
  Pieces pieces;
  while (!text.empty()) {
    const std::size_t valid = utf8_run_end(text, 0);
    for (std::string& piece : WrittenPattern(text.substr(0, valid)).pieces()) pieces.push_back(std::move(piece));
    std::size_t end = valid;
    while (end < text.size() && first_character(text.substr(end)).length == 0) ++end;
    if (end > valid) pieces.emplace_back(text.substr(valid, end - valid));
    text.remove_prefix(end);
  }
  return pieces;
}

// Both ways of splitting, which must agree.
Pieces split_both(std::string_view text) {
  const Pieces pieces = split(text);
  EXPECT_EQ(pieces, split_as_written(text)) << text;
  return pieces;
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

constexpr const char* kAtoms[] = {"a",      "Z",    "s",    "ll", "re",     "'",      "'",      " ",       " ",
                                  "  ",     "\n",   "\r\n", "\t", "7",      "!",      "_",      "\x1C",    "\x7F",
                                  "é",      "日",   "🙂", "½",  "\u0301", "\u00A0", "\u2003", "\u180E",  "\u0085",
                                  "\u3000", "\xFF", "\xC3", "\v", "٣",      "ǅ",      "\uFEFF", "\xE2\x80"};

TEST(PreTokenizer, EqualsTheWrittenPatternOnRandomText) {
  std::mt19937 random(3);
  for (int i = 0; i < 30000; ++i) {
    std::string text;
    const unsigned ascii_only = random() % 3;  // a third of the texts
    for (unsigned n = random() % 20; n > 0; --n) {
      text += kAtoms[random() % (ascii_only == 0 ? 18 : std::size(kAtoms))];
    }
    if (random() % 16 == 0) text.push_back('\0');
    const Pieces pieces = split(text);
    ASSERT_EQ(pieces, split_as_written(text)) << "text " << ::testing::PrintToString(text);
    std::string joined;
    for (const std::string& piece : pieces) joined += piece;
    ASSERT_EQ(joined, text);
  }
}

TEST(PreTokenizer, EqualsTheWrittenPatternOnRandomBytes) {
  std::mt19937 random(5);
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    for (unsigned n = random() % 12; n > 0; --n) text.push_back(static_cast<char>(random()));
    ASSERT_EQ(split(text), split_as_written(text)) << ::testing::PrintToString(text);
  }
}

// pre_tokenizer_vectors.json: strings of characters of every class, among them all kinds of white space and letters
// that came with Unicode 15 and 16, as the pieces that tokenizers 0.23.3 (ByteLevel) makes of them.
TEST(PreTokenizer, MakesThePiecesOfAnIndependentImplementation) {
  const char* source = std::getenv("QAT_TEST_SOURCE_DIR");
  const auto path =
      std::filesystem::path(source == nullptr ? "." : source) / "tests/src/text/pre_tokenizer_vectors.json";
  std::ifstream stream(path);
  ASSERT_TRUE(stream) << path;
  const auto vectors = nlohmann::json::parse(stream).get<std::vector<Pieces>>();
  EXPECT_GT(vectors.size(), 100U);
  for (const Pieces& pieces : vectors) {
    std::string text;
    for (const std::string& piece : pieces) text += piece;
    EXPECT_EQ(split_both(text), pieces);
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
  EXPECT_TRUE(is_certain_boundary("“a” b", 7));
  EXPECT_TRUE(is_certain_boundary("🙂 b", 4));
  EXPECT_TRUE(is_certain_boundary("\xFF b", 1));
  EXPECT_FALSE(is_certain_boundary("a \n", 2));
  EXPECT_FALSE(is_certain_boundary("a\u0085 b", 3));
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
