#include "kernels/sampling/choose_tokens.h"

#include <cmath>
#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/sampling/choose_tokens_cpu.h"
#include "kernels/sampling/choose_tokens_cuda.h"

namespace qat::kernels {

void choose_tokens(const Exec& exec, const ConstFloatMatrix& logits, const SamplingOptions& options,
                   Matrix<std::uint8_t> seen, std::span<const std::int64_t> draws, std::span<std::int64_t> tokens,
                   std::span<std::int64_t> finite) {
  const std::string shape = shape_text(logits.rows, logits.cols);
  QAT_CHECK(logits.dtype == DType::kFloat32, "tokens are chosen by logits in fp32");
  QAT_CHECK(logits.cols >= 1 && logits.cols <= kMostTokens, "logits of " + shape);
  QAT_CHECK(std::isfinite(options.temperature) && options.temperature >= 0.0 && options.top_k >= 0 &&
                options.top_p > 0.0 && options.top_p <= 1.0 && options.repetition_penalty > 0.0,
            "sampling at a temperature from 0, with top-p in (0, 1] and a penalty above 0");
  QAT_CHECK(!options.has_penalty() || (seen.rows == logits.rows && seen.cols == logits.cols),
            "tokens seen of " + shape_text(seen.rows, seen.cols) + " for logits of " + shape);
  QAT_CHECK(options.is_greedy() || length(draws) == logits.rows,
            std::to_string(draws.size()) + " draws for logits of " + shape);
  QAT_CHECK(length(tokens) == logits.rows && length(finite) == logits.rows,
            std::to_string(tokens.size()) + " tokens for logits of " + shape);
  if (logits.rows == 0) return;
  dispatch(
      exec, "choose_tokens", [&] { choose_tokens_cpu(exec, logits, options, seen, draws, tokens, finite); },
      [&] { choose_tokens_cuda(exec, logits, options, seen, draws, tokens, finite); });
}

}  // namespace qat::kernels
