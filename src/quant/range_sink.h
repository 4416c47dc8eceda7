// Where training's passes leave the ranges of what they saw, for quantizers whose ranges are running means.
#pragma once

#include "src/quant/quantizer.h"

namespace qat {

// Asked by several threads at a time.
class RangeSink {
 public:
  virtual ~RangeSink() = default;

  // Of a layer's input (`layer`: its index in PrecisionMap) in one micro-batch. Seeing the same one twice, as where a
  // block is computed again in backward, is seeing it once: only the extremes over a step count.
  virtual void observe(std::int64_t layer, const RangeWidths& widths, const CalibratedRange& range) = 0;

  // From one thread, around an update's passes: what was seen of one that was given up or skipped counts for nothing.
  virtual void begin_update() = 0;
  virtual void count_update() = 0;  // it has changed the parameters
};

}  // namespace qat
