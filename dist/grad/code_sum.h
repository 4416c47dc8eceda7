// Gradients that travel as integer codes and are summed as integers: exact, so the result has the same bits in whatever
// order, grouping or topology the ranks are added.
//
//   s[j]   = max over ranks and elements i of block j of |x_r[i]|, at least amax_floor, / q_max      (agreed first)
//   q_r[i] = clamp(round(x_r[i] * (1 / s[j])), -q_max, q_max)      to nearest even, or floor(. + u) with u in [0, 1)
//   x[i]   = s[j] * sum_r q_r[i]
//
// Over k ranks |x[i] - sum_r x_r[i]| <= k s[j] / 2, stochastic rounding: < k s[j]; up to float32 rounding.
#pragma once

#include <cstdint>
#include <span>

#include "dist/comm/communicator.h"
#include "kernels/common/philox.h"

namespace qat::dist {

struct CodeSumOptions {
  int bits = 8;               // 2..16: q_max = 2^(bits-1) - 1
  std::int64_t block = 256;   // elements that share one scale
  float amax_floor = 1e-30F;  // scales stay finite and positive on all-zero blocks

  bool stochastic = false;  // unbiased: rounds up with the probability of the fraction
  // Draws belong to (seed, stream, contribution, element). Give every sum of a run another stream (say, step and
  // buffer), and let `contribution` name what this rank brings, so that the result does not depend on who brings it.
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
  std::int64_t contribution = -1;  // below 2^24; -1: this rank's number
};

// data: [n], replaced on every rank by the dequantized sum. A block with a NaN or an infinity on any rank is NaN on
// all.
void all_reduce_codes(Communicator& comm, std::span<float> data, const CodeSumOptions& options);

}  // namespace qat::dist
