#include "kernels/loss/softmax_cross_entropy.h"

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/loss/softmax_cross_entropy_cpu.h"
#include "kernels/loss/softmax_cross_entropy_cuda.h"

namespace qat::kernels {

void softmax_cross_entropy(const Exec& exec, FloatMatrix logits, std::int64_t classes,
                           std::span<const std::int64_t> targets, bool with_gradient, float gradient_scale,
                           std::span<float> losses) {
  const std::string shape = shape_text(logits.rows, logits.cols);
  QAT_CHECK(logits.is_dense() || logits.rows <= 1, "logits have gaps between their rows");
  QAT_CHECK(classes >= 1 && classes <= logits.cols, std::to_string(classes) + " classes for logits of " + shape);
  QAT_CHECK(length(targets) == logits.rows, std::to_string(targets.size()) + " targets for logits of " + shape);
  QAT_CHECK(length(losses) == logits.rows, std::to_string(losses.size()) + " losses for logits of " + shape);
  dispatch(
      exec, "softmax_cross_entropy",
      [&] { softmax_cross_entropy_cpu(exec, logits, classes, targets, with_gradient, gradient_scale, losses); },
      [&] { softmax_cross_entropy_cuda(exec, logits, classes, targets, with_gradient, gradient_scale, losses); });
}

}  // namespace qat::kernels
