// The CPU half of adamw_flat.h and adamw_segments.h. Arguments are checked there.
#pragma once

#include <span>

#include "kernels/common/cpu_isa.h"
#include "kernels/optim/adamw_segments.h"
#include "kernels/optim/adamw_state.h"

namespace qat::kernels {

void adamw_flat_cpu(const Exec& exec, const AdamWState& state, const AdamWStep& step, CpuIsa isa);
void adamw_segments_cpu(const Exec& exec, const AdamWState& state, std::span<const AdamWSegment> segments, CpuIsa isa);
void block_sum_squares_cpu(const Exec& exec, std::span<const float> x, std::int64_t block, std::span<double> partial);

}  // namespace qat::kernels
