// When this rank did what of its stage's actions, in one step: measured where the work is done, on a GPU in its stream.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/Event.h>

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/pipeline/timeline.h"

namespace qat {

class StageTimeline {
 public:
  // Moment 0 is now: on all ranks the same, if they have just left a barrier. rank: in the world.
  StageTimeline(c10::Device device, int rank);

  // Actions that go together, a pass or the transfers between two passes, begin now; and have come to their end.
  void begin();
  void end(std::span<const dist::PipelineAction> actions);

  // On a GPU it waits for the stream.
  dist::Timeline spans() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Mark {
    Clock::time_point host;
    std::optional<c10::Event> device;  // on a GPU
  };
  struct Entry {
    std::vector<dist::PipelineAction> actions;
    Mark begin, end;
  };
  Mark mark() const;
  double microseconds(const Mark& at) const;  // from moment 0

  c10::Device device_;
  int rank_;
  Mark zero_;
  std::vector<Entry> entries_;
};

// Collective: the spans of all ranks.
dist::Timeline gather_timeline(const StageTimeline& mine, dist::Communicator& world);

}  // namespace qat
