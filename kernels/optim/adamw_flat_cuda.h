// The CUDA half of adamw_flat.h and adamw_segments.h: the same bits as the CPU's. Arguments are checked there.
#pragma once

#include <span>

#include "kernels/optim/adamw_segments.h"
#include "kernels/optim/adamw_state.h"

namespace qat::kernels {

void adamw_flat_cuda(const Exec& exec, const AdamWState& state, const AdamWStep& step);
void adamw_segments_cuda(const Exec& exec, const AdamWState& state, std::span<const AdamWSegment> segments);
void block_sum_squares_cuda(const Exec& exec, std::span<const float> x, std::int64_t block, std::span<double> partial);

}  // namespace qat::kernels
