#include "kernels/loss/softmax_cross_entropy_cpu.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/common/error.h"

namespace qat::kernels {

void softmax_cross_entropy_cpu(const Exec& exec, FloatMatrix logits, std::int64_t classes,
                               std::span<const std::int64_t> targets, bool with_gradient, float gradient_scale,
                               std::span<float> losses) {
  const Matrix<float> x = require_fp32(logits);
  for (const std::int64_t target : targets)
    QAT_CHECK(target == kIgnoredTarget || (target >= 0 && target < classes),
              "target " + std::to_string(target) + " of " + std::to_string(classes) + " classes");
  exec.for_ranges(x.rows, /*grain=*/1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      float* row = x.row(m);
      const std::int64_t target = targets[static_cast<std::size_t>(m)];
      if (target == kIgnoredTarget) {
        losses[static_cast<std::size_t>(m)] = 0.0F;
        if (with_gradient) std::fill(row, row + x.cols, 0.0F);
        continue;
      }
      const float largest = *std::max_element(row, row + classes);
      const float wanted = row[target];
      double sum = 0.0;  // tens of thousands of terms; a NaN or an infinity among the logits makes it NaN
      for (std::int64_t v = 0; v < classes; ++v) {
        const float e = std::exp(row[v] - largest);
        sum += static_cast<double>(e);
        if (with_gradient) row[v] = e;
      }
      losses[static_cast<std::size_t>(m)] = static_cast<float>(std::log(sum)) + (largest - wanted);
      if (!with_gradient) continue;
      const float inverse = 1.0F / static_cast<float>(sum);
      for (std::int64_t v = 0; v < classes; ++v) {
        const float p = row[v] * inverse;
        row[v] = (v == target ? p - 1.0F : p) * gradient_scale;
      }
      std::fill(row + classes, row + x.cols, 0.0F);
    }
  });
}

}  // namespace qat::kernels
