// Questions and their contexts as windows of tokens for a model that points at answers:
//
//   question (its first tokens) | end of text | part of the context | end of text | end of text, to the full length
//
// A context that does not fit is cut into windows that begin `window_advance` tokens apart; the last one reaches its
// end. Places are numbered from 0 in the window. Place 0, a token of the question, stands for "no answer here": it is
// what a model is to point at where the context does not answer the question, or not in this window.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/data/data_identity.h"
#include "src/data/squad_file.h"
#include "src/text/tokenizer.h"

namespace qat {

struct QuestionLayout {
  std::int64_t sequence_length = 384;  // tokens of a window
  std::int64_t window_advance = 128;   // tokens of the context between the starts of a question's windows
  std::int64_t question_tokens = 64;   // of a question that are used, at most
};

// Tokens of a window beside the question's and the context's: an end of text behind each.
constexpr std::int64_t kWindowSeparators = 2;

// What a window's model is to find, and where it may look: place 0 and the context's places.
struct SpanTarget {
  std::int32_t start = 0, end = 0;                  // first and last token of the first answer; both 0: none here
  std::int32_t context_begin = 0, context_end = 0;  // places [context_begin, context_end)
};
constexpr std::int64_t kSpanTargetNumbers = 4;  // start, end, context_begin, context_end, in this order

class QuestionWindows {
 public:
  struct Window {
    std::int32_t question;       // in data().questions
    std::int32_t first, tokens;  // of the context
  };

  // Throws kData for contexts of more tokens than 31 bits count. Requires a layout in which windows leave no token of a
  // context out (layout_fits).
  QuestionWindows(SquadData data, const Tokenizer& tokenizer, const QuestionLayout& layout);

  const SquadData& data() const { return data_; }
  const QuestionLayout& layout() const { return layout_; }
  // Of all questions in order, each one's windows from its context's start to its end.
  const std::vector<Window>& windows() const { return windows_; }

  SpanTarget target(const Window& window) const;
  // layout().sequence_length tokens.
  void fill(const Window& window, std::span<std::int32_t> inputs) const;
  // Tokens of a window up to the last end of text that means something.
  std::int64_t length(const Window& window) const;
  // The bytes of the context that the tokens at places [start, end] of a window stand for, without white space around
  // them, and with whole characters only.
  ByteRange bytes(const Window& window, std::int64_t start, std::int64_t end) const;

  // A segment for each file: its questions, contexts and answers as tokens.
  SplitIdentity identity() const;

 private:
  struct Context {
    std::vector<std::uint16_t> tokens;
    std::vector<std::uint32_t> ends;  // of each token, in bytes
  };
  std::int64_t token_at(const Context& context, std::size_t byte) const;
  std::int64_t context_place(const Window& window) const;

  SquadData data_;
  QuestionLayout layout_;
  std::uint16_t end_of_text_;
  std::vector<Context> contexts_;
  std::vector<std::vector<std::uint16_t>> questions_;  // no longer than layout_.question_tokens
  std::vector<Window> windows_;
};

}  // namespace qat
