// What each stage of a pipeline does in a step, in which order: pure lists, which an engine carries out and a simulator
// times (simulator.h).
//
// A stage is a rank of one replica; it holds `chunks` pieces of the model. Chunk c of stage s is the piece c * stages +
// s, so micro-batches go around the stages `chunks` times:
//
//   2 stages, 2 chunks, pieces of 3 blocks:  stage 0: blocks 0-2 and 6-8     stage 1: blocks 3-5 and 9-11
//
// GPipe runs all micro-batches forward, then all backward (Huang et al. 2019, arXiv:1811.06965, section 2.3). 1F1B runs
// a backward as soon as there is one, so that a stage keeps few micro-batches (Narayanan et al. 2019, PipeDream,
// section 3.2; with the flush after every step: Narayanan et al. 2021, arXiv:2104.04473, section 2.2.1). Interleaved
// 1F1B does so over several chunks a stage, for a smaller bubble and more transfers (the same, section 2.2.2); with one
// chunk it is 1F1B.
//
// With p stages, m micro-batches, v chunks, a forward of f and a backward of b seconds for all of a stage's chunks, and
// transfers that take no time:
//
//                a step takes               idle share of it          most passes that stage s keeps for backward
//   GPipe        (m + p - 1) (f + b)        (p - 1) / (m + p - 1)     m
//   1F1B         (m + p - 1) (f + b)        (p - 1) / (m + p - 1)     min(p - s, m)
//   interleaved  (m + (p - 1) / v) (f + b)  (p - 1) / (v m + p - 1)   min(2 (p - s - 1) + (v - 1) p + 1, v m)
//
// The last line is for p that divide m, and its passes are each through one chunk.
//
// Interleaving works through the micro-batches in groups of p. Where p does not divide m, the last group is short: its
// lists are those of the next multiple without the micro-batches that are not there. They need no more time and memory
// than that multiple's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qat::dist {

enum class PipelineSchedule : std::uint8_t { kGpipe, kOneFOneB, kInterleaved };

enum class ActionKind : std::uint8_t {
  kReceiveForward,   // the input of a chunk's forward, from the stage before
  kForward,          //
  kSendForward,      // its output, to the stage after
  kReceiveBackward,  // the gradient of a chunk's output, from the stage after
  kBackward,         //
  kSendBackward,     // the gradient of its input, to the stage before
};

struct PipelineAction {
  ActionKind kind = ActionKind::kForward;
  int chunk = 0;                 // of this stage, 0 .. chunks - 1
  std::int64_t micro_batch = 0;  // of this replica, 0 .. micro_batches - 1

  bool operator==(const PipelineAction&) const = default;
};

constexpr bool is_send(ActionKind kind) {
  return kind == ActionKind::kSendForward || kind == ActionKind::kSendBackward;
}
constexpr bool is_receive(ActionKind kind) {
  return kind == ActionKind::kReceiveForward || kind == ActionKind::kReceiveBackward;
}
constexpr bool is_transfer(ActionKind kind) { return is_send(kind) || is_receive(kind); }

// "receive forward", "forward", ...
const char* to_text(ActionKind kind);
// "forward of micro-batch 3", "send backward of micro-batch 0, chunk 2".
std::string to_text(const PipelineAction& action, int chunks);

// What stage `stage` does in a step that trains, in this order. A receive stands right before what uses it and a send
// right after what it sends; the first piece has no input to receive, the last one turns its own output around, and a
// single stage has no transfers at all, whatever its chunks.
//
// Every chunk's backward passes are in order of micro-batches, 0, 1, 2, ..., so gradients can be summed as a single
// rank sums them. Between two stages, messages of one kind are received in the order in which they are sent, so they
// need no tag beyond their kind. Two neighbours send to each other, so an engine does not block in a send before its
// receives are posted. Either will do (tests/dist/pipeline_simulator_test.cc): one receive of each kind posted ahead of
// its use; or, with one chunk a stage, all transfers between two passes as one exchange. turns.h has exchanges for any
// number of chunks.
//
// stages, micro_batches >= 1; chunks is 1 unless interleaved. Anything else is a broken promise (kInternal): a user's
// numbers are checked where the configuration is.
std::vector<PipelineAction> stage_actions(PipelineSchedule schedule, int stage, int stages, std::int64_t micro_batches,
                                          int chunks = 1);

// The same without gradients: the forward passes, and their transfers, in stage_actions' order of forward passes. For
// evaluation and calibration.
std::vector<PipelineAction> forward_actions(PipelineSchedule schedule, int stage, int stages,
                                            std::int64_t micro_batches, int chunks = 1);

// The other end of a transfer.
struct PipelinePeer {
  int stage = 0;
  int chunk = 0;  // of that stage: whose input or output gradient the message is

  bool operator==(const PipelinePeer&) const = default;
};
PipelinePeer peer_of(const PipelineAction& transfer, int stage, int stages, int chunks = 1);

// The most forward passes whose backward has not begun that these actions ever leave: what the memory for activations
// is for. Each is of one chunk.
std::int64_t peak_in_flight(const std::vector<PipelineAction>& actions);

// The idle share of a step in the table above. Interleaved with p not dividing m: of the next multiple, which bounds
// it.
double bubble_fraction(PipelineSchedule schedule, int stages, std::int64_t micro_batches, int chunks = 1);

}  // namespace qat::dist
