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
  double idle_before = 0.0;  // milliseconds in which nothing ran, up to its starts
};

// Records from construction, or from restart(), to stop(). One at a time in a process.
class KernelTrace {
 public:
  KernelTrace();
  // Waits for the device and forgets what was recorded: the first work after the construction is slower.
  void restart();
  // Waits for the device. By falling time. `busy_ms`: time in which some kernel, copy or memset ran; `span_ms`: from
  // the first one's start to the last one's end.
  std::vector<KernelTime> stop(double& busy_ms, double& span_ms);
};

}  // namespace qat::bench
