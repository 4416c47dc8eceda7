// A range as calibration makes it of batches, on one rank.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "src/quant/range_observer.h"

namespace qat::test {

inline CalibratedRange range_of(const Quantizer& quantizer, BitWidth width, const std::vector<at::Tensor>& batches) {
  RangeObserver observer(quantizer, width, batches.front().size(-1), at::kCPU);
  for (const at::Tensor& batch : batches) observer.observe(batch);
  CalibratedRange range{
      .lo = observer.lo(), .hi = observer.hi(), .mean = {}, .batches = static_cast<std::int64_t>(batches.size())};
  if (observer.wants_mean()) range.mean = at::stack(observer.means()).mean(0);
  return range;
}

// Of weights and activations of one width.
inline RangeWidths both(int bits) { return {.weight = bits, .activation = bits}; }

inline void hold(Quantizer& quantizer, BitWidth width, const std::vector<at::Tensor>& batches) {
  quantizer.put_in_force(both(width.bits()), range_of(quantizer, width, batches));
}

}  // namespace qat::test
