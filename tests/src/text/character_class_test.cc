#include "src/text/character_class.h"

#include <gtest/gtest.h>

#include <map>

namespace qat {
namespace {

// What tiktoken 0.14.0 and tokenizers 0.23.3 say of every code point, asked one by one (is "x" + c, "1" + c or "!" + c
// one piece?), as an FNV-1a hash over the letters L, N, S and O: one character in another class gives another hash.
TEST(CharacterClass, EveryCharacterIsInTheClassThatIndependentImplementationsPutItIn) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  std::map<char, int> counts;
  for (char32_t c = 0; c < 0x110000; ++c) {
    const char letter = "OLNS"[static_cast<int>(class_of(c))];
    ++counts[letter];
    hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3U;
  }
  EXPECT_EQ(counts, (std::map<char, int>{{'L', 141028}, {'N', 1911}, {'S', 25}, {'O', 971148}}));
  EXPECT_EQ(hash, 0x7c92916829dfa40aU);
}

TEST(CharacterClass, KnowsUnicode16AndNothingLater) {
  EXPECT_EQ(class_of(0x1C89), CharacterClass::kLetter);   // 16: CYRILLIC CAPITAL LETTER TJE
  EXPECT_EQ(class_of(0x2EBF0), CharacterClass::kLetter);  // 15.1: CJK extension I
  EXPECT_EQ(class_of(0x10D40), CharacterClass::kNumber);  // 16: GARAY DIGIT ZERO
  EXPECT_EQ(class_of(0x088F), CharacterClass::kOther);    // 17: ARABIC LETTER NOON WITH RING ABOVE
  EXPECT_EQ(class_of(0x180E), CharacterClass::kOther);    // white space until 6.2
  EXPECT_EQ(class_of(0x3000), CharacterClass::kSpace);
  EXPECT_EQ(class_of(0x10FFFF), CharacterClass::kOther);
}

}  // namespace
}  // namespace qat
