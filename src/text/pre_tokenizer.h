// GPT-2's first step: cut a text into the pieces (words, numbers, runs of punctuation, runs of spaces) that byte pairs
// are then merged inside of. Every piece is a match of
//
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// taken from left to right; character_class.h says what \p{L}, \p{N} and \s are.
//
// The pieces joined are the text, whatever its bytes. Bytes that are not UTF-8: the text is first cut into maximal runs
// that are UTF-8 and maximal runs that are not; each of the former is split on its own, each of the latter is one
// piece.
//
// No regular expression is run: each alternative is a run of characters of one class, so one look at a piece's first
// characters says which it is. Time is linear in the text.
#pragma once

#include <cstddef>
#include <string_view>

namespace qat {

// Walks over the pieces of a text, which must outlive the cursor.
class PreTokenCursor {
 public:
  explicit PreTokenCursor(std::string_view text) : text_(text) {}

  // False at the end of the text, and then `piece` is not set.
  bool next(std::string_view& piece);

 private:
  std::string_view text_;
  std::size_t at_ = 0;
};

// True if `at` (0 < at < text.size()) starts a piece whatever stands before and after, so that a text may be cut there
// and its two parts encoded on their own with the same result: ASCII white space after anything that is not white
// space. Looks at the byte `at` and the three before it.
bool is_certain_boundary(std::string_view text, std::size_t at);

}  // namespace qat
