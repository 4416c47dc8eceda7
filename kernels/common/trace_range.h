#pragma once

namespace qat {

// A named span on the calling thread's timeline, for profilers that listen (NVTX: Nsight Systems). Ranges of a thread
// nest. A call through a pointer that is null where nobody listens; nothing in a build without CUDA.
class TraceRange {
 public:
  explicit TraceRange(const char* name) noexcept;
  ~TraceRange();
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;
};

}  // namespace qat
