#pragma once

#include <string_view>

namespace qat {

// Whether the whole text matches: * any run of characters (dots too, and none), ? one character, [a-c1] and [!a-c] one
// character of a set. A '[' without its ']' stands for itself. Never slower than O(|pattern| |text|).
bool glob_match(std::string_view pattern, std::string_view text);

}  // namespace qat
