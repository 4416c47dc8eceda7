#include "kernels/common/trace_range.h"

#include "kernels/common/trace_listener.h"

#if QAT_HAS_CUDA
#include <nvtx3/nvToolsExt.h>
#endif

namespace qat {
namespace {

thread_local TraceListener* t_listener = nullptr;

}  // namespace

TraceRange::TraceRange(const char* name) noexcept {
#if QAT_HAS_CUDA
  nvtxRangePushA(name);
#endif
  if (t_listener != nullptr) t_listener->begin(name);
}

TraceRange::~TraceRange() {
  if (t_listener != nullptr) t_listener->end();
#if QAT_HAS_CUDA
  nvtxRangePop();
#endif
}

TraceListening::TraceListening(TraceListener& listener) noexcept { t_listener = &listener; }

TraceListening::~TraceListening() { t_listener = nullptr; }

}  // namespace qat
