// UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, at most U+10FFFF.
#pragma once

#include <cstddef>
#include <string_view>

namespace qat {

struct Utf8Character {
  char32_t value = 0;
  std::size_t length = 0;  // in bytes, 1 to 4; 0: no character stands there
};

// The character at the start of `text`; length 0 if there is none, which includes one that is cut short.
inline Utf8Character first_character(std::string_view text) {
  const auto byte = [&](std::size_t i) -> char32_t {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;  // 0 continues nothing
  };
  const auto continues = [&](std::size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const auto bits = [&](std::size_t i) { return byte(i) & 0x3F; };
  if (text.empty()) return {};
  const char32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xC2) return {};  // a continuation byte, or an overlong form
  if (lead < 0xE0) {
    if (!continues(1)) return {};
    return {(lead & 0x1F) << 6 | bits(1), 2};
  }
  if (lead < 0xF0) {
    const bool overlong = lead == 0xE0 && byte(1) < 0xA0;
    const bool surrogate = lead == 0xED && byte(1) >= 0xA0;
    if (overlong || surrogate || !continues(1) || !continues(2)) return {};
    return {(lead & 0x0F) << 12 | bits(1) << 6 | bits(2), 3};
  }
  if (lead > 0xF4 || (lead == 0xF0 && byte(1) < 0x90) || (lead == 0xF4 && byte(1) >= 0x90)) return {};
  if (!continues(1) || !continues(2) || !continues(3)) return {};
  return {(lead & 0x07) << 18 | bits(1) << 12 | bits(2) << 6 | bits(3), 4};
}

// End of the maximal run of UTF-8 characters that starts at `begin`; begin itself if none does.
std::size_t utf8_run_end(std::string_view text, std::size_t begin);

}  // namespace qat
