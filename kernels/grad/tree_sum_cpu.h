// The CPU half of tree_sum.h: the specification. Arguments are checked by tree_sum.cc.
#pragma once

#include "kernels/grad/tree_sum.h"

namespace qat::kernels {

void tree_sum_cpu(const Exec& exec, std::span<const float> x, std::int64_t parts, std::span<float> sum);
void add_flat_cpu(const Exec& exec, std::span<float> a, std::span<const float> b);

}  // namespace qat::kernels
