// What GPT-2's split pattern asks of a character: is it a letter (\p{L}), a number (\p{N}) or white space (\s, which is
// Unicode's White_Space)?
//
// The tables are our own, of Unicode 16.0 (character_ranges.inc): token ids depend neither on the machine nor on the
// version of any library there. They are those of tiktoken 0.14 and tokenizers 0.23, character by character; later
// versions of Unicode make letters of characters that are none here, and so other tokens.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace qat {

enum class CharacterClass : std::uint8_t { kOther, kLetter, kNumber, kSpace };

// Two bits a character, four characters a byte; nothing from kClassedCharacters on is in any class.
inline constexpr std::size_t kClassedCharacters = 0x323B0;
extern const std::array<std::uint8_t, kClassedCharacters / 4> kCharacterClasses;

inline CharacterClass class_of(char32_t character) {
  if (character >= kClassedCharacters) return CharacterClass::kOther;
  return static_cast<CharacterClass>(kCharacterClasses[character / 4] >> (character % 4 * 2) & 3);
}

}  // namespace qat
