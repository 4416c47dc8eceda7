#include "kernels/quant/range.h"

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/quant/range_cpu.h"
#include "kernels/quant/range_cuda.h"

namespace qat::kernels {
namespace {

void check_groups(const Matrix<const float>& x, Axis axis, std::span<const float> out) {
  QAT_CHECK(length(out) == groups_of(x, axis), std::to_string(out.size()) + " results for " +
                                                   std::to_string(groups_of(x, axis)) + " groups of x " +
                                                   shape_text(x));
  QAT_CHECK(out.empty() || x.size() > 0, "x of " + shape_text(x) + " has groups without elements, which have no range");
}

}  // namespace

std::int64_t groups_of(const Matrix<const float>& x, Axis axis) {
  switch (axis) {
    case Axis::kTensor:
      return 1;
    case Axis::kRow:
      return x.rows;
    case Axis::kCol:
      return x.cols;
  }
  fail_internal("axis", "an axis that does not exist", __FILE__, __LINE__);
}

void min_max(const Exec& exec, Matrix<const float> x, Axis axis, std::span<float> mins, std::span<float> maxs) {
  check_groups(x, axis, mins);
  check_groups(x, axis, maxs);
  dispatch(
      exec, "min_max", [&] { min_max_cpu(exec, x, axis, mins, maxs, best_cpu_isa()); },
      [&] { min_max_cuda(exec, x, axis, mins, maxs); });
}

void log_range(const Exec& exec, Matrix<const float> x, Axis axis, float eps, bool masked, std::span<float> log_mins,
               std::span<float> log_maxs) {
  check_groups(x, axis, log_mins);
  check_groups(x, axis, log_maxs);
  QAT_CHECK(eps > 0.0F, "log2 needs a floor above zero");
  dispatch(
      exec, "log_range",
      [&] {
        log_range_cpu(exec, x, axis, {eps, masked}, log_mins, log_maxs, best_cpu_isa());
      },
      [&] {
        log_range_cuda(exec, x, axis, {eps, masked}, log_mins, log_maxs);
      });
}

void log_mean(const Exec& exec, Matrix<const float> x, Axis axis, float eps, std::span<float> means) {
  check_groups(x, axis, means);
  QAT_CHECK(eps > 0.0F, "log2 needs a floor above zero");
  dispatch(
      exec, "log_mean", [&] { log_mean_cpu(exec, x, axis, eps, means); },
      [&] { log_mean_cuda(exec, x, axis, eps, means); });
}

}  // namespace qat::kernels
