// The likeliest answer in a window, from the logits of its first and of its last token.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace qat {

struct BestSpan {
  double score = 0.0;               // sum of the two logits
  std::int64_t start = 0, end = 0;  // places of the first and the last token

  friend bool operator==(const BestSpan&, const BestSpan&) = default;
};

struct SpanSearch {
  std::int64_t n_best = 20;      // the likeliest places for either end, which are put together
  std::int64_t max_tokens = 30;  // of an answer
};

// Among the places [begin, end); of equal scores the one that starts, then ends, first. Nothing if none of the
// likeliest places make an answer, or a logit is not a number.
std::optional<BestSpan> best_span(std::span<const float> start_logits, std::span<const float> end_logits,
                                  std::int64_t begin, std::int64_t end, const SpanSearch& search);

}  // namespace qat
