#include "kernels/loss/distillation_cpu.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/common/error.h"

namespace qat::kernels {
namespace {

// log sum_v exp(x[v] / temperature), in double.
double log_sum(const float* x, std::int64_t classes, double temperature) {
  const double largest = *std::max_element(x, x + classes);
  double sum = 0.0;
  for (std::int64_t v = 0; v < classes; ++v) sum += std::exp((x[v] - largest) / temperature);
  return std::log(sum) + largest / temperature;
}

}  // namespace

void distillation_cpu(const Exec& exec, FloatMatrix logits, std::span<const ConstFloatMatrix> teachers,
                      std::int64_t classes, std::span<const std::int64_t> targets, const DistillationWeights& weights,
                      bool with_gradient, float gradient_scale, std::span<float> cross_entropy,
                      std::span<float> distillation) {
  const Matrix<float> z = require_fp32(logits);
  for (const std::int64_t target : targets)
    QAT_CHECK(target == kIgnoredTarget || (target >= 0 && target < classes),
              "target " + std::to_string(target) + " of " + std::to_string(classes) + " classes");
  const double temperature = weights.temperature, ce = weights.cross_entropy, kd = weights.distillation;
  const auto count = static_cast<double>(teachers.size());
  exec.for_ranges(z.rows, /*grain=*/1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> taught(static_cast<std::size_t>(classes));  // the teachers' probabilities, added up
    for (std::int64_t m = begin; m < end; ++m) {
      float* row = z.row(m);
      const auto at = static_cast<std::size_t>(m);
      const std::int64_t target = targets[at];
      if (target == kIgnoredTarget) {
        cross_entropy[at] = distillation[at] = 0.0F;
        if (with_gradient) std::fill(row, row + z.cols, 0.0F);
        continue;
      }
      const double log_z = log_sum(row, classes, 1.0), log_soft = log_sum(row, classes, temperature);
      std::fill(taught.begin(), taught.end(), 0.0);
      double divergence = 0.0;
      for (const ConstFloatMatrix& teacher : teachers) {
        const float* t = require_fp32(teacher).row(m);
        const double log_t = log_sum(t, classes, temperature);
        for (std::int64_t v = 0; v < classes; ++v) {
          const double log_p = t[v] / temperature - log_t, p = std::exp(log_p);
          taught[static_cast<std::size_t>(v)] += p;
          if (p > 0.0) divergence += p * (log_p - (row[v] / temperature - log_soft));
        }
      }
      cross_entropy[at] = static_cast<float>(log_z - row[target]);
      distillation[at] = static_cast<float>(temperature * temperature * divergence);
      if (!with_gradient) continue;
      for (std::int64_t v = 0; v < classes; ++v) {
        const double p = std::exp(row[v] - log_z), soft = std::exp(row[v] / temperature - log_soft);
        const double of_target = p - (v == target ? 1.0 : 0.0);
        const double of_teachers = temperature * (count * soft - taught[static_cast<std::size_t>(v)]);
        row[v] = static_cast<float>((ce * of_target + kd * of_teachers) * gradient_scale);
      }
      std::fill(row + classes, row + z.cols, 0.0F);
    }
  });
}

}  // namespace qat::kernels
