// Windows for perplexity over a text of N tokens. Every token but the first is scored exactly once, for every stride,
// and with as much context as the windows give.
#pragma once

#include <cstdint>
#include <vector>

namespace qat {

// The model reads tokens [begin, end - 1), at most max_length of them, and predicts tokens [begin + 1, end); of these,
// [score_begin, end) count, the others only give context. Logits row i predicts token begin + 1 + i, so the first row
// that counts is score_begin - 1 - begin.
struct EvalWindow {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t score_begin = 0;

  std::int64_t inputs() const { return end - 1 - begin; }
  std::int64_t scored() const { return end - score_begin; }
  friend bool operator==(const EvalWindow&, const EvalWindow&) = default;
};

// Windows begin `stride` tokens apart, the last ends with the text; none for fewer than two tokens. stride ==
// max_length: no token is read twice. Throws kConfig unless 1 <= stride <= max_length.
std::vector<EvalWindow> eval_windows(std::int64_t tokens, std::int64_t max_length, std::int64_t stride);

}  // namespace qat
