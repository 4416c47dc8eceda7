// A pass of an update on a grid of stages: the replica's micro-batches from stage to stage and back, in the order of
// the schedule's actions (dist/pipeline/schedule.h).
//
// The last stage runs a micro-batch forward and backward at once, as its head does (src/loss/lm_head_loss.h). Where the
// embedding is the head too, the last stage trains the table: a micro-batch's gradient of the head waits there for the
// gradient of the embeddings, [B, T, d], which goes around: from the first stage with the next forward messages, and
// what is left after the last of them straight to the last stage. So the two parts are added for each micro-batch, as
// on a rank that has both, and no table travels but the updated one.
#include <ATen/ATen.h>

#include <map>
#include <memory>
#include <span>
#include <utility>

#include "kernels/common/error.h"
#include "kernels/common/trace_range.h"
#include "src/model/stage_transfers.h"
#include "src/train/step_runner.h"

namespace qat {
namespace {

using dist::ActionKind;
using dist::PipelineAction;

// Which micro-batches' embedding gradients go with the forward message of which micro-batch, and which ones are left:
// those whose backward pass the first stage has behind it by then.
struct EmbeddedRoute {
  std::map<std::int64_t, std::vector<std::int64_t>> with;  // by the message's micro-batch
  std::vector<std::int64_t> rest;
};

EmbeddedRoute embedded_route(const std::vector<PipelineAction>& of_first_stage) {
  EmbeddedRoute route;
  for (const PipelineAction& action : of_first_stage) {
    if (action.kind == ActionKind::kBackward) route.rest.push_back(action.micro_batch);
    if (action.kind == ActionKind::kSendForward) route.with[action.micro_batch] = std::exchange(route.rest, {});
  }
  return route;
}

at::Tensor take(std::map<std::int64_t, at::Tensor>& tensors, std::int64_t micro_batch) {
  auto found = tensors.extract(micro_batch);
  QAT_CHECK(!found.empty(), "a stage's actions name what is there");
  return std::move(found.mapped());
}

}  // namespace

class StepRunner::StagedPass {
 public:
  StagedPass(StepRunner& runner, Step& step, const Pass& pass)
      : runner_(runner), step_(step), pass_(pass), transfers_(runner.grid_.pipeline()) {
    const int stages = runner_.grid_.stages();
    const dist::PipelineSchedule schedule = runner_.options_.schedule;
    const std::int64_t count = runner_.local_micro_batches_;
    actions_ = pass_.plan.trains ? dist::stage_actions(schedule, stage(), stages, count)
                                 : dist::forward_actions(schedule, stage(), stages, count);
    const Gpt2Config& config = runner_.model_.config();
    if (pass_.plan.trains && config.tie_lm_head && !config.answers_questions() && !config.freeze_base)
      route_ = embedded_route(dist::stage_actions(schedule, /*stage=*/0, stages, count));
  }

  void run() {
    for (const PipelineAction& action : actions_) {
      if (dist::is_transfer(action.kind)) {
        gathered_.push_back(action);
        prepare(action);
      } else {
        transfer();
        timed({&action, 1}, [&] {
          action.kind == ActionKind::kForward ? forward(action.micro_batch) : backward(action.micro_batch);
        });
      }
    }
    transfer();
    send_rest();
    QAT_CHECK(in_flight_.empty() && outputs_.empty() && gradients_.empty() && heads_.empty() && embedded_.empty(),
              "a pass leaves nothing in flight");
  }

 private:
  // A micro-batch between its forward and its backward pass here.
  struct InFlight {
    StagePass pass;
    std::unique_ptr<PassGradients> sink;
  };

  int stage() const { return runner_.grid_.stage(); }
  bool first() const { return runner_.grid_.is_first_stage(); }
  bool last() const { return runner_.grid_.is_last_stage(); }
  // Number in the global batch.
  std::int64_t global(std::int64_t micro_batch) const { return runner_.first_micro_batch() + micro_batch; }

  at::Tensor empty_states() const {
    const ComputeMode& mode = runner_.model_.mode();
    return at::empty(
        {runner_.options_.train.micro_batch_size, runner_.options_.sequence_length, runner_.model_.config().n_embd},
        at::TensorOptions().dtype(mode.dtype).device(mode.device));
  }

  template <typename Work>
  void timed(std::span<const PipelineAction> actions, const Work& work) {
    StageTimeline* const timeline = runner_.timeline_;
    if (timeline != nullptr) timeline->begin();
    work();
    if (timeline != nullptr) timeline->end(actions);
  }

  // A transfer, which waits for the others before the next work.
  void prepare(const PipelineAction& action) {
    const std::int64_t m = action.micro_batch;
    switch (action.kind) {
      case ActionKind::kForward:
      case ActionKind::kBackward:
        return;
      case ActionKind::kReceiveForward:
        transfers_.receive(StageMessage::kForward, outputs_[m] = empty_states(), stage() - 1);
        for (const std::int64_t carried : route_.with[m])
          transfers_.receive(StageMessage::kEmbedded, embedded_[carried] = empty_states(), stage() - 1);
        return;
      case ActionKind::kSendForward:
        transfers_.send(StageMessage::kForward, take(outputs_, m), stage() + 1);
        for (const std::int64_t carried : route_.with[m])
          transfers_.send(StageMessage::kEmbedded, take(embedded_, carried), stage() + 1);
        return;
      case ActionKind::kReceiveBackward:
        transfers_.receive(StageMessage::kBackward, gradients_[m] = empty_states(), stage() + 1);
        return;
      case ActionKind::kSendBackward:
        transfers_.send(StageMessage::kBackward, take(gradients_, m), stage() - 1);
        return;
    }
  }

  // What has gathered since the last work.
  void transfer() {
    if (!transfers_.any()) return;
    const TraceRange range("stage transfer");
    runner_.timer_.pause();
    timed(gathered_, [&] { transfers_.run(); });
    runner_.timer_.resume();
    gathered_.clear();
    if (last()) complete_tables();
  }

  // Tokens are for the first stage, targets for the last one.
  Batch batch(std::int64_t m) {
    const std::int64_t i = global(m);
    Batch read =
        runner_.batch_or_zeros(step_, [&] { return runner_.loader_->take(runner_.first_sample(step_.plan, i)); });
    const bool ends = m + 1 == runner_.local_micro_batches_;
    const auto next_step = static_cast<std::uint64_t>(pass_.ends_step ? runner_.options_.train.batch_size : 0);
    next_sample_ = ends ? runner_.first_sample(step_.plan, runner_.first_micro_batch()) + next_step
                        : runner_.first_sample(step_.plan, i + 1);
    return read;
  }

  // outputs_[m], what has entered, becomes what leaves; at the last stage, gradients_[m].
  void forward(std::int64_t m) {
    const std::int64_t i = global(m);
    Batch samples;
    if (first() || last()) samples = batch(m);
    ModelInput input;
    first() ? input.tokens = samples.inputs : input.states = take(outputs_, m);
    if (!pass_.plan.trains) {
      teach(m, input);
    } else if (last()) {
      learn(m, input, samples);
    } else {
      InFlight& flight = in_flight_[m];
      flight.sink = std::make_unique<PassGradients>(runner_.next_gradients(step_, pass_, i));
      const TraceRange range("forward");
      flight.pass = runner_.model_.forward(input, runner_.context_of(step_, pass_, i, flight.sink.get()));
      outputs_[m] = flight.pass.output;
      runner_.grid_.world().beat();
    }
    if (first() || last()) runner_.loader_->prefetch(next_sample_);
  }

  void teach(std::int64_t m, const ModelInput& input) {
    const at::NoGradGuard no_grad;
    const ForwardContext context = runner_.context_of(step_, pass_, global(m), /*sink=*/nullptr);
    if (last())
      runner_.model_.teach(input, context, pass_.teaching->of_micro_batch[static_cast<std::size_t>(m)]);
    else
      outputs_[m] = runner_.model_.forward(input, context).output;
    runner_.grid_.world().beat();
  }

  // At the last stage.
  void learn(std::int64_t m, const ModelInput& input, const Batch& samples) {
    const std::int64_t i = global(m);
    PassGradients sink = runner_.next_gradients(step_, pass_, i);
    LossAndGradients found = runner_.forward_backward(step_, pass_, i, input, samples.targets, &sink);
    gradients_[m] = std::move(found.gradients.states);
    if (runner_.model_.trains_table_of_first_stage()) {
      at::Tensor& table = found.gradients.parameters.at(static_cast<std::size_t>(table_info().trainable_index));
      heads_[m] = {.gradient = std::exchange(table, at::Tensor()), .tokens = samples.inputs};
    }
    runner_.join(found, sink, step_);
  }

  void backward(std::int64_t m) {
    if (last()) return;  // it was done with the forward pass
    const auto found = in_flight_.find(m);
    QAT_CHECK(found != in_flight_.end(), "what goes backward has gone forward");
    StageGradients gradients = runner_.model_.backward(found->second.pass, take(gradients_, m));
    found->second.sink->finish(gradients.parameters, step_.produced);
    in_flight_.erase(found);
    if (!first()) gradients_[m] = std::move(gradients.states);
    if (gradients.embedded.defined()) embedded_[m] = std::move(gradients.embedded);
    runner_.grid_.world().beat();
  }

  const ParameterInfo& table_info() const { return runner_.model_.parameters().info(runner_.model_.table_id()); }

  // At the last stage: those gradients of the table of which both parts are there, in order.
  void complete_tables() {
    while (!embedded_.empty()) {
      const std::int64_t m = embedded_.begin()->first;
      const auto head = heads_.find(m);
      QAT_CHECK(head != heads_.end() && m == heads_.begin()->first, "a table's gradients are complete in order");
      runner_.model_.add_embedding_gradient(head->second.gradient, head->second.tokens, take(embedded_, m));
      std::vector<at::Tensor> gradients(runner_.model_.parameters().trainable_tensors().size());
      gradients.at(static_cast<std::size_t>(table_info().trainable_index)) = std::move(head->second.gradient);
      heads_.erase(head);
      PassGradients sink = runner_.next_gradients(step_, pass_, global(m), /*of_table=*/true);
      sink.finish(gradients, step_.produced);
    }
  }

  // From the first stage straight to the last one.
  void send_rest() {
    for (const std::int64_t m : route_.rest) {
      if (first()) transfers_.send(StageMessage::kEmbedded, take(embedded_, m), runner_.grid_.last_stage());
      if (last()) transfers_.receive(StageMessage::kEmbedded, embedded_[m] = empty_states(), /*stage=*/0);
    }
    transfer();
  }

  // A head's gradient that waits for the embeddings'.
  struct HeadGradient {
    at::Tensor gradient, tokens;
  };

  StepRunner& runner_;
  Step& step_;
  const Pass& pass_;
  StageTransfers transfers_;
  std::vector<PipelineAction> actions_;
  std::vector<PipelineAction> gathered_;  // transfers that wait for the next work
  EmbeddedRoute route_;
  std::uint64_t next_sample_ = 0;
  // By micro-batch of this replica.
  std::map<std::int64_t, InFlight> in_flight_;
  std::map<std::int64_t, at::Tensor> outputs_;    // received, or to be sent
  std::map<std::int64_t, at::Tensor> gradients_;  // likewise, backward
  std::map<std::int64_t, at::Tensor> embedded_;   // on their way from the first stage to the last
  std::map<std::int64_t, HeadGradient> heads_;    // at the last stage
};

void StepRunner::run_through_stages(Step& step, const Pass& pass) {
  StagedPass(*this, step, pass).run();
  if (!pass.ends_update) (void)stops(step);
}

void StepRunner::renew_copy_of_table() {
  if (grid_.stages() == 1 || model_.config().freeze_base) return;
  StageTransfers transfers(grid_.pipeline());
  if (model_.trains_table_of_first_stage())
    transfers.send(StageMessage::kForward, model_.parameters().tensor(model_.table_id()), /*stage=*/0);
  if (model_.has_copy_of_table())
    transfers.receive(StageMessage::kForward, model_.parameters().tensor(model_.table_id()).detach(),
                      grid_.last_stage());
  transfers.run();
}

}  // namespace qat
