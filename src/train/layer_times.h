// Where a pass's time goes: the time of each part that the model marks by a TraceRange ("h.0" > "attn.c_attn"),
// measured in the very passes. A listener of the calling thread alone.
#pragma once

#include <c10/core/Device.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/common/trace_listener.h"
#include "src/report/task_figures.h"
#include "src/train/work_timer.h"

namespace qat {

class LayerTimes final : public TraceListener {
 public:
  explicit LayerTimes(c10::Device device) : device_(device) {}
  LayerTimes(const LayerTimes&) = delete;
  LayerTimes& operator=(const LayerTimes&) = delete;

  void begin(const char* name) noexcept override;
  void end() noexcept override;
  // A pass is over, and has been waited for.
  void take_pass();

  // Of the passes taken, in the order of a pass: the ranges that have none inside. Names of ranges around them stand in
  // front, with a point: "h.0.attn.c_attn". One that a pass has more than once is added up.
  std::vector<LayerSpeed> figures() const;

 private:
  struct Part {
    explicit Part(c10::Device device) : timer(device) {}
    std::string name;
    WorkTimer timer;
    bool leaf = true;
  };

  c10::Device device_;
  std::vector<std::unique_ptr<Part>> parts_;  // of a pass, in order; timers serve the next pass again
  std::size_t used_ = 0;                      // of them, in this pass
  std::vector<std::size_t> open_;
  struct Layer {
    std::string name;
    std::vector<double> times_ms;  // by pass
  };
  std::vector<Layer> layers_;
  std::size_t passes_ = 0;
};

}  // namespace qat
