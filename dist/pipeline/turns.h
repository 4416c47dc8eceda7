// A stage's actions as an engine takes them that only knows exchanges: transfers that go together, then passes, and so
// on. Nobody waits for ever, for the moments of exchange are in one order on all stages.
//
// With one chunk a stage, a turn is one pass, and before it go all transfers that stand between it and the pass before.
// With several, neighbours would so wait in exchanges whose messages are for later ones (pipeline_simulator_test.cc).
// There the turns follow a common clock: in tick t a stage s takes its forward pass t - s, its backward pass
// t + s + 2 - (v + 1) p, or first the one and then the other, where these are numbers of passes in the schedule's
// order. Whatever a pass of tick t makes is used in tick t + 1, by a neighbour. So all messages between tick t and
// t + 1 are one exchange of those who have some, of which both ends know:
//
//   2 stages, 2 chunks, 2 micro-batches; ' marks the second chunk
//     tick       0    1    2    3        4        5    6    7
//     stage 0    F0   F1   F0'  F1'      B0'      B1'  B0   B1
//     stage 1         F0   F1   F0' B0'  F1' B1'  B0   B1
//
// Ticks of a forward and a backward pass are on all stages at the same time, so that with equal stages the clock costs
// nothing: a step takes the formula's time (schedule.h).
#pragma once

#include <cstdint>
#include <vector>

#include "dist/pipeline/schedule.h"

namespace qat::dist {

struct PipelineTurn {
  std::vector<PipelineAction> transfers;  // one exchange; may be empty
  std::vector<PipelineAction> passes;     // then, in this order; empty: what is left to be sent

  bool operator==(const PipelineTurn&) const = default;
};

// stage_actions' passes in their order, or with `trains` false forward_actions', and all their transfers.
std::vector<PipelineTurn> stage_turns(PipelineSchedule schedule, int stage, int stages, std::int64_t micro_batches,
                                      int chunks, bool trains);

}  // namespace qat::dist
