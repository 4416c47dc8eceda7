#include "kernels/loss/distillation.h"

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/loss/distillation_cpu.h"
#include "kernels/loss/distillation_cuda.h"

namespace qat::kernels {

void distillation(const Exec& exec, FloatMatrix logits, std::span<const ConstFloatMatrix> teachers,
                  std::int64_t classes, std::span<const std::int64_t> targets, const DistillationWeights& weights,
                  bool with_gradient, float gradient_scale, std::span<float> cross_entropy,
                  std::span<float> distillation) {
  const std::string shape = shape_text(logits.rows, logits.cols);
  QAT_CHECK(logits.is_dense() || logits.rows <= 1, "logits have gaps between their rows");
  QAT_CHECK(classes >= 1 && classes <= logits.cols, std::to_string(classes) + " classes for logits of " + shape);
  QAT_CHECK(length(targets) == logits.rows, std::to_string(targets.size()) + " targets for logits of " + shape);
  QAT_CHECK(length(cross_entropy) == logits.rows && length(distillation) == logits.rows,
            "two losses a row for logits of " + shape);
  QAT_CHECK(!teachers.empty() && length(teachers) <= kMostTeachers, std::to_string(teachers.size()) + " teachers");
  QAT_CHECK(weights.temperature > 0.0F, "a temperature of " + std::to_string(weights.temperature));
  for (const ConstFloatMatrix& teacher : teachers) {
    QAT_CHECK(teacher.rows == logits.rows && teacher.cols >= classes && teacher.dtype == logits.dtype,
              "a teacher's logits of " + shape_text(teacher.rows, teacher.cols) + " beside " + shape);
    QAT_CHECK(teacher.is_dense() || teacher.rows <= 1, "a teacher's logits have gaps between their rows");
  }
  dispatch(
      exec, "distillation",
      [&] {
        distillation_cpu(exec, logits, teachers, classes, targets, weights, with_gradient, gradient_scale,
                         cross_entropy, distillation);
      },
      [&] {
        distillation_cuda(exec, logits, teachers, classes, targets, weights, with_gradient, gradient_scale,
                          cross_entropy, distillation);
      });
}

}  // namespace qat::kernels
