#include "src/text/pre_tokenizer.h"

#include <algorithm>
#include <array>

#include "src/text/character_class.h"
#include "src/text/utf8.h"

namespace qat {
namespace {

// By first byte: the class of an ASCII character, kLonger for all others.
constexpr auto kLonger = static_cast<CharacterClass>(4);
constexpr std::array<CharacterClass, 256> kByteClasses = [] {
  std::array<CharacterClass, 256> classes{};
  for (std::size_t c = 0; c < classes.size(); ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    classes[c] = c >= 0x80                ? kLonger
                 : letter                 ? CharacterClass::kLetter
                 : (c >= '0' && c <= '9') ? CharacterClass::kNumber
                 : space                  ? CharacterClass::kSpace
                                          : CharacterClass::kOther;
  }
  return classes;
}();

CharacterClass byte_class(std::string_view text, std::size_t at) {
  return kByteClasses[static_cast<unsigned char>(text[at])];
}

struct ClassedCharacter {
  CharacterClass kind = CharacterClass::kOther;
  std::size_t length = 0;  // 0: the end of the text, or bytes that are not UTF-8, which end a text just so
};

ClassedCharacter character_at(std::string_view text, std::size_t at) {
  if (at >= text.size()) return {};
  if (const CharacterClass kind = byte_class(text, at); kind != kLonger) return {kind, 1};
  const Utf8Character character = first_character(text.substr(at));
  return {class_of(character.value), character.length};
}

std::size_t run_end(std::string_view text, std::size_t begin, CharacterClass kind) {
  std::size_t end = begin;
  while (true) {
    while (end < text.size() && byte_class(text, end) == kind) ++end;
    if (end == text.size() || byte_class(text, end) != kLonger) return end;
    const ClassedCharacter next = character_at(text, end);
    if (next.length == 0 || next.kind != kind) return end;
    end += next.length;
  }
}

// End of the run of bytes that are not UTF-8.
std::size_t broken_run_end(std::string_view text, std::size_t begin) {
  std::size_t end = begin;
  while (end < text.size() && first_character(text.substr(end)).length == 0) ++end;
  return end;
}

// End of the piece that the white space at `begin` starts. "\s+(?!\S)" leaves the last character of a run to what
// follows it; "\s+" takes a single one all the same.
std::size_t space_end(std::string_view text, std::size_t begin) {
  std::size_t last = begin, end = begin;
  while (true) {
    const ClassedCharacter next = character_at(text, end);
    if (next.length == 0) return end;
    if (next.kind != CharacterClass::kSpace) return last > begin ? last : end;
    last = end;
    end += next.length;
  }
}

// Length of the contraction that stands at the apostrophe text[at], 0 if none does.
std::size_t contraction_length(std::string_view text, std::size_t at) {
  const char first = at + 1 < text.size() ? text[at + 1] : '\0';
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  const char second = at + 2 < text.size() ? text[at + 2] : '\0';
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l')) return 3;
  return 0;
}

// End of the piece at `at`: the alternatives of the pattern in their order.
std::size_t piece_end(std::string_view text, std::size_t at) {
  if (text[at] == '\'') {
    if (const std::size_t length = contraction_length(text, at)) return at + length;
  }
  // " ?X+": a space belongs to what follows it, unless that is white space or nothing.
  const std::size_t begin = text[at] == ' ' ? at + 1 : at;
  const ClassedCharacter first = character_at(text, begin);
  if (first.length != 0 && first.kind != CharacterClass::kSpace) return run_end(text, begin + first.length, first.kind);
  return first.length == 0 && begin == at ? broken_run_end(text, at) : space_end(text, at);
}

}  // namespace

bool PreTokenCursor::next(std::string_view& piece) {
  if (at_ == text_.size()) return false;
  const std::size_t end = piece_end(text_, at_);
  piece = text_.substr(at_, end - at_);
  at_ = end;
  return true;
}

bool is_certain_boundary(std::string_view text, std::size_t at) {
  const ClassedCharacter here = character_at(text, at);
  if (here.length != 1 || here.kind != CharacterClass::kSpace) return false;
  // White space is one to three bytes long, and its first byte starts a character wherever it stands.
  for (std::size_t length = 1; length <= std::min<std::size_t>(at, 3); ++length) {
    const ClassedCharacter before = character_at(text, at - length);
    if (before.length == length) return before.kind != CharacterClass::kSpace;
  }
  return true;
}

}  // namespace qat
