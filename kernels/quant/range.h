// Ranges of a matrix: what calibration accumulates and what dynamic quantizers recompute. On a GPU x and the results
// are device memory; min_max is the CPU's bit for bit, logarithms may differ in the last bits.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"
#include "kernels/common/view.h"

namespace qat::kernels {

// Which elements share one scale: all of them, those of a row, those of a column.
enum class Axis : unsigned char { kTensor, kRow, kCol };

// The number of groups of x under `axis`: 1, rows or cols.
std::int64_t groups_of(const Matrix<const float>& x, Axis axis);

// mins, maxs: [groups], written. An infinity or a NaN anywhere in a group makes that group's min and max NaN. A zero is
// +0. No group may be empty.
void min_max(const Exec& exec, Matrix<const float> x, Axis axis, std::span<float> mins, std::span<float> maxs);

// Range of log2|x| per group, non-finite elements as in min_max.   log_mins, log_maxs: [groups], written.
// `masked`: elements with |x| <= eps are left out; a group of only such elements gets (log2(eps), log2(eps)).
// otherwise: |x| is raised to eps first (zeros count as eps), the rule of the `seed` codebook.
void log_range(const Exec& exec, Matrix<const float> x, Axis axis, float eps, bool masked, std::span<float> log_mins,
               std::span<float> log_maxs);

// Mean of log2|x| over elements with |x| > eps, per group; log2(eps) for a group with none, NaN for one with an
// infinity or a NaN. Summed in double, in an order that the shape alone decides. (2-bit packed log codes.)
void log_mean(const Exec& exec, Matrix<const float> x, Axis axis, float eps, std::span<float> means);

}  // namespace qat::kernels
