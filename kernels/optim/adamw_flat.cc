#include "kernels/optim/adamw_flat.h"

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/optim/adamw_flat_cpu.h"
#include "kernels/optim/adamw_flat_cuda.h"

namespace qat::kernels {

void adamw_flat(const Exec& exec, std::span<float> p, std::span<const float> g, std::span<float> m, std::span<float> v,
                const AdamWStep& step, std::int32_t* refused) {
  QAT_CHECK(g.size() == p.size() && m.size() == p.size() && v.size() == p.size(),
            "AdamW on " + std::to_string(p.size()) + " parameters got " + std::to_string(g.size()) + " gradients, " +
                std::to_string(m.size()) + " and " + std::to_string(v.size()) + " moments");
  QAT_CHECK(step.step >= 1, "AdamW counts steps from 1, not " + std::to_string(step.step));
  if (p.empty()) return;
  dispatch(
      exec, "adamw_flat",
      [&] {
        adamw_flat_cpu(exec, {p, g, m, v, refused}, step, best_cpu_isa());
      },
      [&] {
        adamw_flat_cuda(exec, {p, g, m, v, refused}, step);
      });
}

void block_sum_squares(const Exec& exec, std::span<const float> x, std::int64_t block, std::span<double> partial) {
  QAT_CHECK(block > 0, "a block of " + std::to_string(block) + " elements");
  const std::int64_t n = static_cast<std::int64_t>(x.size());
  QAT_CHECK(static_cast<std::int64_t>(partial.size()) == (n + block - 1) / block,
            std::to_string(partial.size()) + " sums for " + std::to_string(n) + " elements in blocks of " +
                std::to_string(block));
  if (x.empty()) return;
  dispatch(
      exec, "block_sum_squares", [&] { block_sum_squares_cpu(exec, x, block, partial); },
      [&] { block_sum_squares_cuda(exec, x, block, partial); });
}

}  // namespace qat::kernels
