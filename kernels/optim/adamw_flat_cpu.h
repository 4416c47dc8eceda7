// The CPU half of adamw_flat.h. Lengths are checked by adamw_flat.cc.
#pragma once

#include <span>

#include "kernels/common/cpu_isa.h"
#include "kernels/optim/adamw_flat.h"

namespace qat::kernels {

struct AdamWState {
  std::span<float> p;
  std::span<const float> g;
  std::span<float> m;
  std::span<float> v;
};

void adamw_flat_cpu(const Exec& exec, const AdamWState& state, const AdamWStep& step, CpuIsa isa);
void block_sum_squares_cpu(const Exec& exec, std::span<const float> x, std::int64_t block, std::span<double> partial);

}  // namespace qat::kernels
