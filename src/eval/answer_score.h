// How good answers are, as SQuAD's own evaluation programs have it (evaluate-v1.1.py, evaluate-v2.0.py): texts are
// compared in lower case, without punctuation, articles and superfluous white space.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace qat {

// Lower case (letters of Latin, Greek and Cyrillic; others as they are), without ASCII's punctuation, without the words
// "a", "an" and "the", words separated by one blank.
std::string normalized_answer(std::string_view text);

struct AnswerMatch {
  double exact = 0.0;  // 1: the same normalized text as one of the right ones
  double f1 = 0.0;     // of the words that both have, with the right answer that fits best

  friend bool operator==(const AnswerMatch&, const AnswerMatch&) = default;
};

// right: the question's answers; none of them with a word in it, or none at all: it has no answer, and "" is right.
AnswerMatch match_answer(std::string_view answer, std::span<const std::string_view> right);

}  // namespace qat
