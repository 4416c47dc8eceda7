// GPT-2's first step: cut a text into the pieces (words, numbers, runs of punctuation, runs of spaces) that byte pairs
// are then merged inside of. Every piece is a match of
//
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// taken from left to right, \s being Unicode's White_Space (PCRE2's own \s also has U+180E, GPT-2's has not). Letters
// and numbers are what the installed PCRE2's Unicode tables say.
//
// The pieces joined are the text, whatever its bytes. Bytes that are not UTF-8: the text is first cut into maximal runs
// that are UTF-8 and maximal runs that are not; each of the former is split on its own, each of the latter is one
// piece.
//
// PreTokenCursor decides ASCII by hand and asks PCRE2 where a piece holds, or is followed by, other characters; both
// ways give the same pieces (a test fuzzes this). Time is linear in the text.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

namespace qat {

// The compiled pattern. Any number of threads may match with one.
class PreTokenPattern {
 public:
  PreTokenPattern();
  ~PreTokenPattern();
  PreTokenPattern(PreTokenPattern&&) noexcept;
  PreTokenPattern& operator=(PreTokenPattern&&) noexcept;

  // What one match writes; one for each thread.
  class MatchState;
  std::shared_ptr<MatchState> make_state() const;

  // The length in bytes (at least 1) of the piece that starts at `start` of `text`, which is UTF-8 throughout and not
  // checked again.
  std::size_t match_length(std::string_view text, std::size_t start, MatchState& state) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

enum class SplitMethod {
  kFast,
  kPcreOnly,  // the specification: PCRE2 for every piece
};

// Walks over the pieces of a text. The text, the pattern and the state must outlive the cursor.
class PreTokenCursor {
 public:
  PreTokenCursor(std::string_view text, const PreTokenPattern& pattern, PreTokenPattern::MatchState& state,
                 SplitMethod method = SplitMethod::kFast)
      : text_(text), pattern_(pattern), state_(state), method_(method) {}

  // False at the end of the text, and then `piece` is not set.
  bool next(std::string_view& piece);

 private:
  std::size_t ascii_length() const;
  std::size_t general_length();

  std::string_view text_;
  const PreTokenPattern& pattern_;
  PreTokenPattern::MatchState& state_;
  SplitMethod method_;
  std::size_t at_ = 0;
  std::size_t valid_begin_ =
      0;  // a run of UTF-8 that has been checked: [valid_begin_, valid_end_), maximal to the right
  std::size_t valid_end_ = 0;
};

// Length of the UTF-8 character at the start of `text` (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF),
// 0 if there is none.
std::size_t utf8_character_length(std::string_view text);

// True if `at` (0 < at < text.size()) starts a piece whatever stands before and after, so that a text may be cut there
// and its two parts encoded on their own with the same result: white space after anything that is not.
bool is_certain_boundary(std::string_view text, std::size_t at);

}  // namespace qat
