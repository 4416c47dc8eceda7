// Work that a GPU does again and again, enqueued by one call (a CUDA graph): for many small kernels, whose launches
// would take the host longer than they take the GPU.
//
//   graph.record(exec, [&] { ... });   what the body gives to exec's stream is noted down, and not done
//   graph.launch(exec);                does it, as often as it is called
//
// Everything that the body touches must stay where it is while the graph is used, and nothing may be left in memory
// that it takes and gives back: others may use that between launches. What the host computes in the body, it computes
// once.
#pragma once

#include <functional>
#include <utility>

#include "kernels/common/exec.h"

namespace qat {

class DeviceGraph {
 public:
  DeviceGraph() = default;
  DeviceGraph(DeviceGraph&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  DeviceGraph& operator=(DeviceGraph&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  // Does not wait.
  ~DeviceGraph();

  bool is_recorded() const noexcept { return handle_ != nullptr; }
  // exec: of a GPU, on another stream than the default one, which cannot be recorded. The body waits for nothing.
  void record(const kernels::Exec& exec, const std::function<void()>& body);
  void launch(const kernels::Exec& exec) const;

 private:
  void* handle_ = nullptr;
};

}  // namespace qat
