#include "kernels/attention/cached_attention.h"

#include <string>

#include "kernels/attention/cached_attention_cpu.h"
#include "kernels/attention/cached_attention_cuda.h"
#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"

namespace qat::kernels {

void cached_attention(const Exec& exec, ConstFloatMatrix q, const KeptTokens& kept, std::int64_t heads, FloatMatrix y) {
  QAT_CHECK(q.rows == y.rows && q.cols == y.cols && q.dtype == y.dtype && (y.is_dense() || y.rows <= 1),
            "q is " + shape_text(q.rows, q.cols) + " and y " + shape_text(y.rows, y.cols) +
                ": their shapes and dtypes differ, or y has gaps");
  QAT_CHECK(heads > 0 && q.cols % heads == 0,
            std::to_string(q.cols) + " columns in " + std::to_string(heads) + " heads");
  QAT_CHECK(length(kept.lengths) == q.rows,
            std::to_string(kept.lengths.size()) + " lengths for " + std::to_string(q.rows) + " sequences");
  const bool coded = kept.dtype == DType::kInt8;
  QAT_CHECK(coded || kept.dtype == q.dtype, "kept tokens are codes, or of q's dtype");
  QAT_CHECK(length(kept.scales) == (coded ? 2 * q.rows * kept.capacity : 0),
            std::to_string(kept.scales.size()) + " scales for " + std::to_string(q.rows) + " sequences of " +
                std::to_string(kept.capacity) + (coded ? " coded tokens" : " tokens that are floats"));
  if (y.size() == 0) return;
  dispatch(
      exec, "cached_attention", [&] { cached_attention_cpu(exec, q, kept, heads, y); },
      [&] { cached_attention_cuda(exec, q, kept, heads, y); });
}

}  // namespace qat::kernels
