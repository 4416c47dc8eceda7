#include "src/text/white_space.h"

#include "src/text/character_class.h"
#include "src/text/utf8.h"

namespace qat {
namespace {

bool is_space(const Utf8Character& character) {
  return character.length > 0 && class_of(character.value) == CharacterClass::kSpace;
}

}  // namespace

std::size_t trailing_space(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t begin = end - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    const Utf8Character last = first_character(text.substr(begin, end - begin));
    if (last.length != end - begin || !is_space(last)) break;
    end = begin;
  }
  return end;
}

std::string_view trimmed(std::string_view text) {
  text = text.substr(0, trailing_space(text));
  while (true) {
    const Utf8Character first = first_character(text);
    if (!is_space(first)) return text;
    text.remove_prefix(first.length);
  }
}

}  // namespace qat
