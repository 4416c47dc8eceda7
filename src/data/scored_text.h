// A prompt and what it goes on with, as tokens of which the last ones are scored.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "src/text/tokenizer.h"

namespace qat {

struct ScoredText {
  std::vector<std::int32_t> tokens;  // at least 2
  std::int64_t scored = 0;           // the last so many, each with those before it as its context; 1 .. tokens - 1
  bool truncated = false;            // the context lost its beginning
  bool merged = false;               // context and text share a token: it is scored

  // Tokens that the model reads: all but the last.
  std::int64_t inputs() const { return static_cast<std::int64_t>(tokens.size()) - 1; }
};

// The two are made tokens of together, as they stand in a text; white space that the context ends with goes to the text
// before, since a token begins with it. Scored are the tokens behind those of the context, or from the first one on
// that the context alone does not begin with. An empty context is the end of a text. What is more than the model reads,
// `most` tokens, is cut from the left. Throws kData if `text` alone is.
ScoredText scored_text(const Tokenizer& tokenizer, std::string_view context, std::string_view text, std::int64_t most);

}  // namespace qat
