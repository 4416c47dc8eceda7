#include "dist/pipeline/schedule.h"

#include <algorithm>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

// The pass of one micro-batch through one chunk.
struct Pass {
  int chunk;
  std::int64_t micro_batch;
};

// The order of a stage's passes, forward or backward: groups of p micro-batches, through each chunk in turn. `padded`
// is a multiple of p wherever there are several chunks.
class PassOrder {
 public:
  PassOrder(int stages, std::int64_t padded, int chunks)
      : group_(chunks == 1 ? padded : stages), chunks_(chunks), count_(padded * chunks) {}

  std::int64_t count() const { return count_; }
  Pass forward(std::int64_t k) const {
    const std::int64_t group = k / (group_ * chunks_);
    const std::int64_t within = k % (group_ * chunks_);
    return {static_cast<int>(within / group_), group * group_ + within % group_};
  }
  Pass backward(std::int64_t k) const {
    const Pass pass = forward(k);
    return {chunks_ - 1 - pass.chunk, pass.micro_batch};
  }

 private:
  std::int64_t group_;
  int chunks_;
  std::int64_t count_;
};

// Forward passes of a stage before its first backward pass, beside the one that comes right before it.
std::int64_t warm_up(PipelineSchedule schedule, int stage, int stages, std::int64_t passes, int chunks) {
  const std::int64_t behind = stages - stage - 1;
  switch (schedule) {
    case PipelineSchedule::kGpipe:
      return passes;
    case PipelineSchedule::kOneFOneB:
      return std::min(behind, passes);
    case PipelineSchedule::kInterleaved:
      // With several chunks a stage goes on until the first gradient is back: as long as that is on its way from the
      // last stage, it can do another forward pass for each stage that the gradient passes.
      return std::min(chunks == 1 ? behind : 2 * behind + std::int64_t{chunks - 1} * stages, passes);
  }
  QAT_CHECK(false, "no such schedule");
}

class ListWriter {
 public:
  ListWriter(int stage, int stages, std::int64_t micro_batches, int chunks)
      : stage_(stage), stages_(stages), micro_batches_(micro_batches), chunks_(chunks) {}

  void forward(Pass pass) {
    if (pass.micro_batch >= micro_batches_) return;
    if (!first_piece(pass.chunk)) transfer(ActionKind::kReceiveForward, pass);
    add(ActionKind::kForward, pass);
    if (!last_piece(pass.chunk)) transfer(ActionKind::kSendForward, pass);
  }
  void backward(Pass pass) {
    if (pass.micro_batch >= micro_batches_) return;
    if (!last_piece(pass.chunk)) transfer(ActionKind::kReceiveBackward, pass);
    add(ActionKind::kBackward, pass);
    if (!first_piece(pass.chunk)) transfer(ActionKind::kSendBackward, pass);
  }
  std::vector<PipelineAction> done() && { return std::move(actions_); }

 private:
  bool first_piece(int chunk) const { return stage_ == 0 && chunk == 0; }
  bool last_piece(int chunk) const { return stage_ == stages_ - 1 && chunk == chunks_ - 1; }
  void transfer(ActionKind kind, Pass pass) {
    if (stages_ > 1) add(kind, pass);
  }
  void add(ActionKind kind, Pass pass) {
    actions_.push_back({.kind = kind, .chunk = pass.chunk, .micro_batch = pass.micro_batch});
  }

  int stage_;
  int stages_;
  std::int64_t micro_batches_;
  int chunks_;
  std::vector<PipelineAction> actions_;
};

void check_shape(PipelineSchedule schedule, int stage, int stages, std::int64_t micro_batches, int chunks) {
  QAT_CHECK(stages >= 1 && stage >= 0 && stage < stages, "a stage of the pipeline");
  QAT_CHECK(micro_batches >= 1, "a step has at least one micro-batch");
  QAT_CHECK(chunks >= 1 && (chunks == 1 || schedule == PipelineSchedule::kInterleaved),
            "only an interleaved schedule has several chunks a stage");
}

PassOrder pass_order(int stages, std::int64_t micro_batches, int chunks) {
  return {stages, chunks == 1 ? micro_batches : (micro_batches + stages - 1) / stages * stages, chunks};
}

}  // namespace

const char* to_text(ActionKind kind) {
  switch (kind) {
    case ActionKind::kReceiveForward:
      return "receive forward";
    case ActionKind::kForward:
      return "forward";
    case ActionKind::kSendForward:
      return "send forward";
    case ActionKind::kReceiveBackward:
      return "receive backward";
    case ActionKind::kBackward:
      return "backward";
    case ActionKind::kSendBackward:
      return "send backward";
  }
  QAT_CHECK(false, "no such action");
}

std::string to_text(const PipelineAction& action, int chunks) {
  std::string text = std::string(to_text(action.kind)) + " of micro-batch " + std::to_string(action.micro_batch);
  if (chunks > 1) text += ", chunk " + std::to_string(action.chunk);
  return text;
}

std::vector<PipelineAction> stage_actions(PipelineSchedule schedule, int stage, int stages, std::int64_t micro_batches,
                                          int chunks) {
  check_shape(schedule, stage, stages, micro_batches, chunks);
  const PassOrder order = pass_order(stages, micro_batches, chunks);
  const std::int64_t ahead = warm_up(schedule, stage, stages, order.count(), chunks);
  ListWriter list(stage, stages, micro_batches, chunks);
  for (std::int64_t k = 0; k < ahead; ++k) list.forward(order.forward(k));
  for (std::int64_t k = ahead; k < order.count(); ++k) {
    list.forward(order.forward(k));
    list.backward(order.backward(k - ahead));
  }
  for (std::int64_t k = order.count() - ahead; k < order.count(); ++k) list.backward(order.backward(k));
  return std::move(list).done();
}

std::vector<PipelineAction> forward_actions(PipelineSchedule schedule, int stage, int stages,
                                            std::int64_t micro_batches, int chunks) {
  check_shape(schedule, stage, stages, micro_batches, chunks);
  const PassOrder order = pass_order(stages, micro_batches, chunks);
  ListWriter list(stage, stages, micro_batches, chunks);
  for (std::int64_t k = 0; k < order.count(); ++k) list.forward(order.forward(k));
  return std::move(list).done();
}

PipelinePeer peer_of(const PipelineAction& transfer, int stage, int stages, int chunks) {
  QAT_CHECK(is_transfer(transfer.kind) && stages > 1, "a transfer between stages has a peer");
  const bool next = transfer.kind == ActionKind::kSendForward || transfer.kind == ActionKind::kReceiveBackward;
  const int piece = transfer.chunk * stages + stage + (next ? 1 : -1);
  QAT_CHECK(piece >= 0 && piece < chunks * stages, "the ends of the model have nobody beyond them");
  return {.stage = piece % stages, .chunk = piece / stages};
}

std::int64_t peak_in_flight(const std::vector<PipelineAction>& actions) {
  std::int64_t now = 0;
  std::int64_t peak = 0;
  for (const PipelineAction& action : actions) {
    if (action.kind == ActionKind::kForward) peak = std::max(peak, ++now);
    if (action.kind == ActionKind::kBackward) --now;
  }
  return peak;
}

double bubble_fraction(PipelineSchedule schedule, int stages, std::int64_t micro_batches, int chunks) {
  check_shape(schedule, /*stage=*/0, stages, micro_batches, chunks);
  const std::int64_t passes = pass_order(stages, micro_batches, chunks).count();
  return static_cast<double>(stages - 1) / static_cast<double>(passes + stages - 1);
}

}  // namespace qat::dist
