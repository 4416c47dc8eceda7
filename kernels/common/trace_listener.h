// Who is told of the calling thread's TraceRanges (trace_range.h) beside a profiler: for measurements of the program's
// own.
#pragma once

namespace qat {

class TraceListener {
 public:
  virtual ~TraceListener() = default;
  // Ranges nest; `name` lives as long as its range.
  virtual void begin(const char* name) noexcept = 0;
  virtual void end() noexcept = 0;
};

// Tells `listener` of this thread's ranges as long as it lives. One at a time.
class TraceListening {
 public:
  explicit TraceListening(TraceListener& listener) noexcept;
  ~TraceListening();
  TraceListening(const TraceListening&) = delete;
  TraceListening& operator=(const TraceListening&) = delete;
};

}  // namespace qat
