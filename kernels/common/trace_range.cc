#include "kernels/common/trace_range.h"

#if QAT_HAS_CUDA
#include <nvtx3/nvToolsExt.h>
#endif

namespace qat {

#if QAT_HAS_CUDA
TraceRange::TraceRange(const char* name) noexcept { nvtxRangePushA(name); }
TraceRange::~TraceRange() { nvtxRangePop(); }
#else
TraceRange::TraceRange(const char* /*name*/) noexcept {}
TraceRange::~TraceRange() = default;
#endif

}  // namespace qat
