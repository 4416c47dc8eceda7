// Carries out the action lists of a pipeline's stages on paper: proves that they fit together, and says when each stage
// does what.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/pipeline/schedule.h"
#include "dist/pipeline/timeline.h"
#include "dist/pipeline/turns.h"

namespace qat::dist {

// Of one chunk, for one micro-batch.
struct ChunkTime {
  double forward_us = 0.0;
  double backward_us = 0.0;
};

// How a stage goes through its transfers.
enum class TransferMode : std::uint8_t {
  kBeside,         // on their own: only passes, and waiting for what it receives, take the stage's time
  kBlockingSends,  // the same, but it waits in a send until its message has arrived (MPI, a long message)
  kExchanges,      // what stands between two passes, or between them in one turn, is one exchange
                   // (dist/comm/communicator.h): all of it moves together, and nothing before the stage is there
};

struct SimulatedPipeline {
  std::vector<std::vector<PipelineAction>> stages;  // what each does (stage_actions, forward_actions)
  // In exchanges, by stage: how many actions it has done whenever one of its turns begins. Empty: there are no turns.
  std::vector<std::vector<std::size_t>> turns{};  // NOLINT(readability-redundant-member-init): may be left out
  std::vector<std::vector<ChunkTime>> times;      // [stages][chunks]
  double transfer_us = 0.0;  // of a message, alone on its way; messages of one kind between two stages take turns
  TransferMode transfers = TransferMode::kBeside;
  // Messages of each kind that a stage can have received and not yet used, other than in exchanges. A message moves
  // only once there is room for it: receives are posted when the step begins, and again whenever a pass has used one.
  int receives_ahead = 1;

  // One stage more, which does this in exchanges.
  void add_turns(const std::vector<PipelineTurn>& turns_of_stage);
};

// What happens, each span's rank being its stage; a transfer is a span of its sender and one of its receiver. The same
// number of chunks on every stage.
//
// Throws Error(kInternal) that names the stage and the action if the lists are not those of a step: a pass whose input
// is not there, or that is done twice, a forward pass whose backward never comes (where there are backward passes), a
// message that is not what its receiver waits for, or that nobody receives, and stages that wait for each other for
// ever.
Timeline simulate(const SimulatedPipeline& pipeline);

}  // namespace qat::dist
