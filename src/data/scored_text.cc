#include "src/data/scored_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "kernels/common/error.h"
#include "src/text/white_space.h"

namespace qat {

ScoredText scored_text(const Tokenizer& tokenizer, std::string_view context, std::string_view text, std::int64_t most) {
  QAT_CHECK(!text.empty() && most > 0, "something is scored");
  const std::string_view read = context.substr(0, trailing_space(context));
  ScoredText result;
  if (read.empty()) result.tokens.push_back(tokenizer.end_of_text());
  std::vector<int> before = result.tokens;
  tokenizer.encode_to(read, before);
  tokenizer.encode_to(std::string(context) + std::string(text), result.tokens);
  const auto differ = std::mismatch(before.begin(), before.end(), result.tokens.begin(), result.tokens.end()).first;
  result.merged = differ != before.end();
  // Where a token of the context and the text's first one are one, even the first of all, there is something before it.
  auto first = std::max<std::ptrdiff_t>(1, differ - before.begin());
  if (differ == before.begin()) result.tokens.insert(result.tokens.begin(), tokenizer.end_of_text());
  result.scored = std::ssize(result.tokens) - first;
  if (result.scored > most)
    throw Error(
        ErrorKind::kData,
        fmt::format("a choice has {} tokens, and the model reads {} at most (model.n_positions)", result.scored, most));
  if (result.inputs() > most) {
    result.truncated = true;
    result.tokens.erase(result.tokens.begin(), result.tokens.end() - (most + 1));
  }
  return result;
}

}  // namespace qat
