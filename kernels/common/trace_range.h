#pragma once

namespace qat {

// A named span on the calling thread's timeline, for profilers that listen (NVTX: Nsight Systems). Ranges of a thread
// nest. Costs a few nanoseconds where nobody listens, and nothing in a build without CUDA.
class TraceRange {
 public:
  explicit TraceRange(const char* name) noexcept;
  ~TraceRange();
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;
};

}  // namespace qat
