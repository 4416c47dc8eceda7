#include "src/text/utf8.h"

#include <cstdint>
#include <cstring>

namespace qat {

std::size_t utf8_run_end(std::string_view text, std::size_t begin) {
  std::size_t end = begin;
  while (end < text.size()) {
    std::uint64_t word;
    while (end + sizeof word <= text.size()) {  // eight ASCII bytes at a time
      std::memcpy(&word, text.data() + end, sizeof word);
      if ((word & 0x8080808080808080U) != 0) break;
      end += sizeof word;
    }
    if (end == text.size()) break;
    const std::size_t length = first_character(text.substr(end)).length;
    if (length == 0) break;
    end += length;
  }
  return end;
}

}  // namespace qat
