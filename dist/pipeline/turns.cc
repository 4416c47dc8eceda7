#include "dist/pipeline/turns.h"

#include <map>
#include <utility>

namespace qat::dist {
namespace {

std::vector<PipelineAction> actions_of(PipelineSchedule schedule, int stage, int stages, std::int64_t micro_batches,
                                       int chunks, bool trains) {
  return trains ? stage_actions(schedule, stage, stages, micro_batches, chunks)
                : forward_actions(schedule, stage, stages, micro_batches, chunks);
}

// A turn for each pass.
std::vector<PipelineTurn> one_by_one(const std::vector<PipelineAction>& actions) {
  std::vector<PipelineTurn> turns(1);
  for (const PipelineAction& action : actions) {
    if (!turns.back().passes.empty()) turns.emplace_back();
    (is_transfer(action.kind) ? turns.back().transfers : turns.back().passes).push_back(action);
  }
  return turns;
}

}  // namespace

std::vector<PipelineTurn> stage_turns(PipelineSchedule schedule, int stage, int stages, std::int64_t micro_batches,
                                      int chunks, bool trains) {
  if (chunks == 1 || stages == 1) return one_by_one(actions_of(schedule, stage, stages, micro_batches, chunks, trains));
  // Passes have their ticks in whole groups of micro-batches, of which the last may lack some.
  const std::int64_t whole = (micro_batches + stages - 1) / stages * stages;
  std::int64_t forward = stage, backward = std::int64_t{chunks + 1} * stages - 2 - stage;
  std::map<std::int64_t, PipelineTurn> by_tick;
  std::vector<PipelineAction> received;  // for the pass that comes next
  std::int64_t tick = 0;
  for (const PipelineAction& action : actions_of(schedule, stage, stages, whole, chunks, trains)) {
    if (is_receive(action.kind)) {
      received = {action};
      continue;
    }
    if (!is_transfer(action.kind)) tick = action.kind == ActionKind::kForward ? forward++ : backward++;
    if (action.micro_batch < micro_batches) {
      std::vector<PipelineAction>& transfers = by_tick[tick].transfers;
      if (is_send(action.kind)) {
        by_tick[tick + 1].transfers.push_back(action);
      } else {
        transfers.insert(transfers.end(), received.begin(), received.end());
        by_tick[tick].passes.push_back(action);
      }
    }
    received.clear();
  }
  std::vector<PipelineTurn> turns;
  for (auto& [at, turn] : by_tick) turns.push_back(std::move(turn));
  return turns;
}

}  // namespace qat::dist
