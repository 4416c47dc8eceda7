// Parts of a pass by name: for profilers, and for times by layer (src/train/layer_times.h).
#pragma once

#include "kernels/common/trace_range.h"

namespace qat {

// What `part` returns, with a TraceRange around its work.
template <typename Part>
auto traced(const char* name, const Part& part) {
  const TraceRange range(name);
  return part();
}

}  // namespace qat
