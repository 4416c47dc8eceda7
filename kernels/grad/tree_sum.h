// Sums of flat fp32 buffers as the balanced tree of dist/comm/communicator.h: ((p0+p1)+(p2+p3))+...
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"

namespace qat::kernels {

// sum[i] = tree over r < parts of x[r * n + i].   x: [parts * n]; sum: [n]; sum may be the first part of x.
// With a number of parts that is no power of two, the last partial sum of a level goes up unpaired.
void tree_sum(const Exec& exec, std::span<const float> x, std::int64_t parts, std::span<float> sum);

// a[i] += b[i].
void add_flat(const Exec& exec, std::span<float> a, std::span<const float> b);

}  // namespace qat::kernels
