#include "kernels/grad/tree_sum.h"

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/grad/tree_sum_cpu.h"
#include "kernels/grad/tree_sum_cuda.h"

namespace qat::kernels {

void tree_sum(const Exec& exec, std::span<const float> x, std::int64_t parts, std::span<float> sum) {
  QAT_CHECK(parts >= 1, "a sum of " + std::to_string(parts) + " parts");
  QAT_CHECK(length(x) == parts * length(sum), std::to_string(parts) + " parts of " + std::to_string(sum.size()) +
                                                  " elements in a buffer of " + std::to_string(x.size()));
  if (sum.empty()) return;
  const float* const first = sum.data();
  QAT_CHECK(first == x.data() || first >= x.data() + x.size() || first + sum.size() <= x.data(),
            "a sum may replace the first part and no other");
  dispatch(
      exec, "tree_sum", [&] { tree_sum_cpu(exec, x, parts, sum); }, [&] { tree_sum_cuda(exec, x, parts, sum); });
}

void add_flat(const Exec& exec, std::span<float> a, std::span<const float> b) {
  QAT_CHECK(a.size() == b.size(), "adds " + std::to_string(b.size()) + " elements to " + std::to_string(a.size()));
  if (a.empty()) return;
  dispatch(
      exec, "add_flat", [&] { add_flat_cpu(exec, a, b); }, [&] { add_flat_cuda(exec, a, b); });
}

}  // namespace qat::kernels
