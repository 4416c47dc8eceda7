// What passes between the stages of a replica: residual streams forward, their gradients backward, and what the first
// stage owes to the last one's table.
//
// Messages are gathered until run(), and are then under way together: two stages may send to each other, however long
// their messages are. A message is matched by its two ends and its kind, in order.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "dist/grid/process_grid.h"
#include "src/model/gpt2.h"

namespace qat {

enum class StageMessage : std::uint8_t { kForward, kBackward, kEmbedded };

class StageTransfers {
 public:
  // pipeline: the stages of this replica, which outlives this.
  explicit StageTransfers(dist::Communicator& pipeline) : pipeline_(pipeline) {}

  // values: fp32 or bf16, on the model's device; all of one run() in memory of the same kind. Both ends name the same
  // number of elements.
  void send(StageMessage kind, const at::Tensor& values, int stage);
  // `into` is contiguous, and filled when run() is over: on a GPU, for what its current stream is given afterwards.
  void receive(StageMessage kind, const at::Tensor& into, int stage);

  // Sends and receives what has gathered. On a CPU it returns when that is done.
  void run();
  bool any() const { return !sends_.empty() || !receives_.empty(); }

 private:
  dist::Communicator& pipeline_;
  std::vector<at::Tensor> kept_;  // until run()
  std::vector<dist::SendTo> sends_;
  std::vector<dist::ReceiveFrom> receives_;
};

// The forward pass of one micro-batch through all stages of a replica, on each of which `model` is its own. tokens:
// int64 [B, T], of the same shape on all of them. Hidden states after the last norm, [B, T, d], at the last stage; at
// the others undefined. What fails on one stage is thrown there once the others have had their message.
at::Tensor hidden_over_stages(const Gpt2& model, const dist::Grid& grid, const at::Tensor& tokens,
                              const ForwardContext& context);

}  // namespace qat
