#include "src/text/character_class.h"

#include <span>

namespace qat {
namespace {

struct CharacterRange {
  std::uint32_t first;
  std::uint32_t last;
};

#include "src/text/character_ranges.inc"

using Table = std::array<std::uint8_t, kClassedCharacters / 4>;

// A range beyond the table would not compile: a constant expression may not write past an array.
constexpr void enter(std::span<const CharacterRange> ranges, CharacterClass character_class, Table& table) {
  for (const CharacterRange& range : ranges) {
    for (std::uint32_t c = range.first; c <= range.last; ++c)
      table[c / 4] = static_cast<std::uint8_t>(table[c / 4] | static_cast<unsigned>(character_class) << (c % 4 * 2));
  }
}

constexpr Table make_table() {
  Table table{};
  enter(kLetterRanges, CharacterClass::kLetter, table);
  enter(kNumberRanges, CharacterClass::kNumber, table);
  enter(kSpaceRanges, CharacterClass::kSpace, table);
  return table;
}

}  // namespace

constexpr Table kCharacterClasses = make_table();

}  // namespace qat
