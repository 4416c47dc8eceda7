// When which rank did what in a pipeline: simulated (simulator.h) or measured. For people: as CSV, and for a trace
// viewer (chrome://tracing, ui.perfetto.dev).
#pragma once

#include <string>
#include <vector>

#include "dist/pipeline/schedule.h"

namespace qat::dist {

// A transfer ends when its data is there. It begins, simulated, when the data begins to move, and measured when the
// rank turns to it: then it has the wait for the other end in it. It may overlap passes.
struct TimelineSpan {
  int rank = 0;  // of the world
  PipelineAction action;
  double begin_us = 0.0;  // microseconds, from whatever moment is 0 for all ranks
  double end_us = 0.0;    // not before begin_us

  bool operator==(const TimelineSpan&) const = default;
};
using Timeline = std::vector<TimelineSpan>;  // in any order

// What a rank did with the time from the first rank's first pass to the last rank's last.
struct RankUse {
  int rank = 0;
  double forward_us = 0.0;
  double backward_us = 0.0;
  double idle_us = 0.0;     // in no pass
  double idle_share = 0.0;  // of the whole time
};

// Of every rank that the timeline has, in order of ranks.
std::vector<RankUse> rank_use(const Timeline& timeline);

// A line per span, in order of ranks and times, below the line "rank,action,micro_batch,chunk,begin_us,end_us". Actions
// are words: "receive forward".
std::string to_csv(const Timeline& timeline);

// The Trace Event Format's JSON: a process per rank, and in it a row for its passes and one for each kind of transfer,
// since transfers overlap passes and each other. "F3" is the forward pass of micro-batch 3, "B3.1" the backward pass of
// micro-batch 3 through the rank's chunk 1.
std::string to_chrome_trace(const Timeline& timeline);

}  // namespace qat::dist
