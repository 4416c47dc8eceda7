// How one kernel call runs: on which device, ordered on which stream, and on how many CPU threads.
#pragma once

#include <cstdint>
#include <functional>

#include "kernels/common/view.h"

namespace qat::kernels {

// Splits [0, count) into ranges of at least `grain` and runs body(begin, end) on each, perhaps at the same time.
// The owner of the threads (LibTorch's pool, in the product) supplies it; kernels start no threads of their own, but
// for long fills with random numbers (uniform_fill.h).
class ParallelFor {
 public:
  using Body = std::function<void(std::int64_t begin, std::int64_t end)>;
  virtual ~ParallelFor() = default;
  virtual void run(std::int64_t count, std::int64_t grain, const Body& body) const = 0;
};

struct Exec {
  Device device = Device::kCpu;
  StreamRef stream{};
  const ParallelFor* parallel = nullptr;  // null: the calling thread alone

  void for_ranges(std::int64_t count, std::int64_t grain, const ParallelFor::Body& body) const {
    if (count <= 0) return;
    if (parallel == nullptr || count <= grain) return body(0, count);
    parallel->run(count, grain, body);
  }
};

}  // namespace qat::kernels
