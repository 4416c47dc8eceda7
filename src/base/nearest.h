// "Did you mean": the known word that a misspelt one most likely stands for.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace qat {

// Fewest insertions, deletions, substitutions and swaps of neighbours that turn a into b (optimal string alignment).
// Case is ignored and '-' equals '_'. Time and memory O(|a| |b|).
std::int64_t edit_distance(std::string_view a, std::string_view b);

// The candidate closest to `word` (the first of equals), if it is close enough to be a slip of the fingers: at most a
// third of the word's length, at least one edit. Cheap for absurdly long words.
std::optional<std::string> nearest(std::string_view word, std::span<const std::string> candidates);

}  // namespace qat
