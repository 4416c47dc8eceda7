#pragma once

namespace qat {

// A named span on the calling thread's timeline, for profilers that listen (NVTX, in a build with CUDA: Nsight Systems)
// and for a TraceListener. Ranges of a thread nest. Where nobody listens, calls through pointers that are null.
class TraceRange {
 public:
  explicit TraceRange(const char* name) noexcept;
  ~TraceRange();
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;
};

}  // namespace qat
