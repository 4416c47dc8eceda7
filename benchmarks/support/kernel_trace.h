// How long each GPU kernel ran, from CUPTI's activity records: where a step's time goes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qat::bench {

struct KernelTime {
  std::string name;
  std::int64_t calls = 0;
  double milliseconds = 0.0;
};

// Records from construction to stop(). One at a time in a process.
class KernelTrace {
 public:
  KernelTrace();
  // Waits for the device. By falling time. `busy_ms`: time in which some kernel, copy or memset ran; `span_ms`: from
  // the first one's start to the last one's end.
  std::vector<KernelTime> stop(double& busy_ms, double& span_ms);
};

}  // namespace qat::bench
