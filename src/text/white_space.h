// White space at the ends of texts, as Unicode has it (\s; src/text/character_class.h).
#pragma once

#include <cstddef>
#include <string_view>

namespace qat {

// Where the white space begins that `text` ends with; text.size() if there is none.
std::size_t trailing_space(std::string_view text);

// Without it at both ends.
std::string_view trimmed(std::string_view text);

}  // namespace qat
