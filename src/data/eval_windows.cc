#include "src/data/eval_windows.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/common/error.h"

namespace qat {

std::vector<EvalWindow> eval_windows(std::int64_t tokens, std::int64_t max_length, std::int64_t stride) {
  if (stride < 1 || stride > max_length) {
    throw Error(ErrorKind::kConfig,
                fmt::format("an evaluation stride of {} would leave tokens out or never advance: expected 1 to {}, the "
                            "length of a window",
                            stride, max_length));
  }
  std::vector<EvalWindow> windows;
  std::int64_t scored_to = 1;  // the first token has no context to be predicted from
  for (std::int64_t begin = 0; scored_to < tokens; begin += stride) {
    // One token more than the model reads: the last row of a window predicts the first token after it. So with
    // stride == max_length each window still scores the token that the next one begins with.
    const std::int64_t end = std::min(begin + max_length + 1, tokens);
    windows.push_back({begin, end, scored_to});
    scored_to = end;
  }
  return windows;
}

}  // namespace qat
