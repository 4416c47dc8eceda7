// What passes between the stages of a replica: residual streams forward, their gradients backward, and what the first
// stage owes to the last one's table.
//
// Messages are gathered until run(), and are then under way together: two stages may send to each other, however long
// their messages are. A message is matched by its two ends and its kind, in order.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "dist/grid/process_grid.h"
#include "kernels/quant/encode.h"
#include "src/model/gpt2.h"

namespace qat {

enum class StageMessage : std::uint8_t { kForward, kBackward, kEmbedded };

// How the values of a message travel: as they are (none), or as integers of 2 to 8 bits with one fp32 scale for each
// row of d values (kernels/quant/encode.h). Up to 4 bits, two integers share a byte if d is even. A row that is not
// finite arrives as NaN.
using TransferCodes = std::optional<kernels::EncodeOptions>;

// Bytes of messages that were sent, and those that the same values have in bf16.
struct TransferBytes {
  std::int64_t sent = 0, bf16 = 0;
};

class StageTransfers {
 public:
  // pipeline: the stages of this replica, which outlives this.
  explicit StageTransfers(dist::Communicator& pipeline) : pipeline_(pipeline) {}

  // values: [..., d], fp32 or bf16, on the model's device; all of one run() in memory of the same kind. Both ends name
  // the same shape and the same codes; only the sender rounds.
  void send(StageMessage kind, const at::Tensor& values, int stage, const TransferCodes& codes = {});
  // `into` is contiguous, and filled when run() is over: on a GPU, for what its current stream is given afterwards.
  void receive(StageMessage kind, const at::Tensor& into, int stage, const TransferCodes& codes = {});

  // Sends and receives what has gathered. On a CPU it returns when that is done.
  void run();
  bool any() const { return !sends_.empty() || !receives_.empty(); }
  // Of all messages so far.
  const TransferBytes& bytes() const { return bytes_; }

 private:
  // A message on its way in that is not values.
  struct Coded {
    at::Tensor message, into;
    kernels::EncodeOptions codes;
  };
  dist::Communicator& pipeline_;
  std::vector<at::Tensor> kept_;  // until run()
  std::vector<Coded> coded_;      // likewise
  std::vector<dist::SendTo> sends_;
  std::vector<dist::ReceiveFrom> receives_;
  TransferBytes bytes_;
};

// The forward pass of one micro-batch through all stages of a replica, on each of which `model` is its own. tokens:
// int64 [B, T], of the same shape on all of them. Hidden states after the last norm, [B, T, d], at the last stage; at
// the others undefined. What fails on one stage is thrown there once the others have had their messages.
at::Tensor hidden_over_stages(const Gpt2& model, const dist::Grid& grid, const at::Tensor& tokens,
                              const ForwardContext& context);

}  // namespace qat
