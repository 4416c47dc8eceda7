// A pass of an update on a grid of stages: the replica's micro-batches from chunk to chunk and back, in the turns of
// the schedule (dist/pipeline/turns.h).
//
// The last chunk runs a micro-batch forward and backward at once, as its head does (src/loss/lm_head_loss.h). Where the
// embedding is the head too, the last stage trains the table: a micro-batch's gradient of the head waits there for the
// gradient of the embeddings, [B, T, d], which goes along: from the first stage with the next forward messages to the
// last one, and what is left after the last of them straight there. So the two parts are added for each micro-batch, as
// on a rank that has both, and no table travels but the updated one.
#include <ATen/ATen.h>

#include <algorithm>
#include <compare>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <utility>

#include "dist/pipeline/turns.h"
#include "kernels/common/error.h"
#include "kernels/common/trace_range.h"
#include "src/model/stage_transfers.h"
#include "src/train/stage_features.h"
#include "src/train/step_runner.h"

namespace qat {
namespace {

using dist::ActionKind;
using dist::PipelineAction;

// A micro-batch of this replica in a chunk of this stage.
struct Place {
  int chunk = 0;
  std::int64_t micro_batch = 0;
  friend auto operator<=>(const Place&, const Place&) = default;
};

Place place_of(const PipelineAction& action) { return {.chunk = action.chunk, .micro_batch = action.micro_batch}; }

// Which micro-batches' embedding gradients go with which of the first stage's forward messages, and which ones are
// left: those whose backward pass the first stage has behind it by then.
struct EmbeddedRoute {
  std::map<Place, std::vector<std::int64_t>> with;  // by the message's chunk, the sender's, and micro-batch
  std::vector<std::int64_t> rest;
};

EmbeddedRoute embedded_route(const std::vector<dist::PipelineTurn>& of_first_stage) {
  EmbeddedRoute route;
  for (const dist::PipelineTurn& turn : of_first_stage) {
    for (const PipelineAction& action : turn.transfers)
      if (action.kind == ActionKind::kSendForward) route.with[place_of(action)] = std::exchange(route.rest, {});
    for (const PipelineAction& action : turn.passes)
      if (action.kind == ActionKind::kBackward && action.chunk == 0) route.rest.push_back(action.micro_batch);
  }
  return route;
}

// Of a message's random draws, beside those of the layers, by the block that it goes to.
constexpr std::uint64_t kTransferSlot = std::uint64_t{1} << 32U;

template <typename Key>
at::Tensor take(std::map<Key, at::Tensor>& tensors, const Key& key) {
  auto found = tensors.extract(key);
  QAT_CHECK(!found.empty(), "a stage's actions name what is there");
  return std::move(found.mapped());
}

}  // namespace

class StepRunner::StagedPass {
 public:
  StagedPass(StepRunner& runner, Step& step, const Pass& pass)
      : runner_(runner),
        step_(step),
        pass_(pass),
        transfers_(runner.grid_.pipeline()),
        features_(pass.plan.feature_layers, runner.local_micro_batches_, runner.model_.mode().device) {
    if (pass_.plan.trains && embeds_for_another()) route_ = embedded_route(turns_of(/*stage=*/0));
  }

  void run() {
    // Sums are complete in the update's last pass alone. Their exchanges are calls to the stage's own group, in which
    // meanwhile nobody makes another; the pass's messages and the feature loss go through the replica's. Replicas make
    // all these calls in one order, so nobody waits for ever, unless one of them may stop working in the middle.
    if (pass_.ends_update && runner_.options_.train.on_out_of_memory == OnOutOfMemory::kStop)
      runner_.gradients_.allow_early();
    for (const dist::PipelineTurn& turn : turns_of(stage())) {
      for (const PipelineAction& action : turn.transfers) prepare(action);
      transfer(turn.transfers);
      for (const PipelineAction& action : turn.passes)
        timed({&action, 1},
              [&] { action.kind == ActionKind::kForward ? forward(place_of(action)) : backward(place_of(action)); });
    }
    send_rest();
    if (features_.any()) {
      runner_.timer_.pause();
      features_.complete(runner_.grid_.pipeline());
      runner_.timer_.resume();
    }
    runner_.transfer_bytes_.sent += transfers_.bytes().sent, runner_.transfer_bytes_.bf16 += transfers_.bytes().bf16;
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
  bool heads(int chunk) const { return runner_.model_.heads(chunk); }
  // Whether the last stage trains the table that the first one embeds with.
  bool embeds_for_another() const {
    const Gpt2Config& config = runner_.model_.config();
    return config.tie_lm_head && !config.answers_questions() && !config.freeze_base;
  }
  std::vector<dist::PipelineTurn> turns_of(int stage) const {
    return dist::stage_turns(runner_.options_.schedule, stage, runner_.grid_.stages(), runner_.local_micro_batches_,
                             runner_.model_.chunks(), pass_.plan.trains);
  }
  int peer_of(const PipelineAction& transfer) const {
    return dist::peer_of(transfer, stage(), runner_.grid_.stages(), runner_.model_.chunks()).stage;
  }
  // Number in the global batch.
  std::int64_t global(std::int64_t micro_batch) const { return runner_.first_micro_batch() + micro_batch; }

  // Room for what comes from another stage. Where that is wanting, this rank works no more in the step, but takes part.
  at::Tensor empty_states() {
    const auto make = [&] {
      const ComputeMode& mode = runner_.model_.mode();
      return at::empty(
          {runner_.options_.train.micro_batch_size, runner_.options_.sequence_length, runner_.model_.config().n_embd},
          at::TensorOptions().dtype(mode.dtype).device(mode.device));
    };
    at::Tensor states;
    runner_.attempt(step_, [&] { states = make(); });
    if (states.defined()) return states;
    in_flight_.clear(), heads_.clear();
    return make();
  }
  // In place of what this rank has no memory to compute.
  at::Tensor zeros() { return empty_states().zero_(); }
  // What of the pass the memory suffices for.
  bool attempt(const std::function<void()>& part) {
    runner_.attempt(step_, part);
    return !step_.out_of_memory;
  }

  // Of a message that goes to `block`, or comes back from it, at the widths that its first layer has in this pass.
  TransferCodes codes_of(StageMessage kind, std::int64_t block, std::int64_t micro_batch) {
    if (runner_.options_.transfer == StageTransfer::kValues) return {};
    const LayerPrecision& layer = pass_.precision.at(kLinearsPerBlock * block);
    const bool forward = kind == StageMessage::kForward;
    const BitWidth width = forward ? layer.activation : layer.gradient;
    if (width.bits() > 8) return {};
    kernels::EncodeOptions codes{.width = width,
                                 .amax_floor = forward ? kernels::kWeightAmaxFloor : kernels::kGradientAmaxFloor};
    if (forward || !runner_.options_.stochastic_gradients) return codes;
    codes.rounding = kernels::Rounding::kStochastic;
    codes.key = runner_.context_of(step_, pass_, global(micro_batch), /*sink=*/nullptr)
                    .rng(RngPurpose::kGradientRounding, kTransferSlot + static_cast<std::uint64_t>(block));
    return codes;
  }
  // Likewise, of what enters a chunk of this stage and of what leaves it.
  TransferCodes entering(StageMessage kind, Place at) {
    return codes_of(kind, runner_.model_.stage().chunks[static_cast<std::size_t>(at.chunk)].first, at.micro_batch);
  }
  TransferCodes leaving(StageMessage kind, Place at) {
    return codes_of(kind, runner_.model_.stage().chunks[static_cast<std::size_t>(at.chunk)].last, at.micro_batch);
  }

  template <typename Work>
  void timed(std::span<const PipelineAction> actions, const Work& work) {
    StageTimeline* const timeline = runner_.timeline_;
    if (timeline != nullptr) timeline->begin();
    work();
    if (timeline != nullptr) timeline->end(actions);
  }

  // What goes along with a forward message between two stages: nothing with one from the last to the first, which goes
  // on to the next chunk.
  std::vector<std::int64_t> carried(Place message, int from) {
    return from == runner_.grid_.last_stage() ? std::vector<std::int64_t>() : route_.with[message];
  }

  // A transfer, which waits for the others of its turn.
  void prepare(const PipelineAction& action) {
    const Place at = place_of(action);
    switch (action.kind) {
      case ActionKind::kForward:
      case ActionKind::kBackward:
        return;
      case ActionKind::kReceiveForward:
        transfers_.receive(StageMessage::kForward, outputs_[at] = empty_states(), peer_of(action),
                           entering(StageMessage::kForward, at));
        for (const std::int64_t m : carried(at, peer_of(action)))
          transfers_.receive(StageMessage::kEmbedded, embedded_[m] = empty_states(), peer_of(action));
        return;
      case ActionKind::kSendForward:
        transfers_.send(StageMessage::kForward, take(outputs_, at), peer_of(action),
                        leaving(StageMessage::kForward, at));
        for (const std::int64_t m : carried(at, stage()))
          transfers_.send(StageMessage::kEmbedded, take(embedded_, m), peer_of(action));
        return;
      case ActionKind::kReceiveBackward:
        transfers_.receive(StageMessage::kBackward, gradients_[at] = empty_states(), peer_of(action),
                           leaving(StageMessage::kBackward, at));
        return;
      case ActionKind::kSendBackward:
        transfers_.send(StageMessage::kBackward, take(gradients_, at), peer_of(action),
                        entering(StageMessage::kBackward, at));
        return;
    }
  }

  // What has been prepared. actions: what the timeline says of it.
  void transfer(std::span<const PipelineAction> actions) {
    if (!transfers_.any()) return;
    const TraceRange range("stage transfer");
    runner_.timer_.pause();
    timed(actions, [&] { transfers_.run(); });
    runner_.timer_.resume();
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

  // outputs_[at], what has entered, becomes what leaves; at the last chunk, gradients_[at].
  void forward(Place at) {
    if (attempt([&] { compute_forward(at); })) return;
    outputs_.erase(at);
    if (!heads(at.chunk)) outputs_[at] = zeros();
    if (heads(at.chunk) && pass_.plan.trains) gradients_[at] = zeros();
    in_flight_.clear(), heads_.clear();
  }
  void compute_forward(Place at) {
    const std::int64_t i = global(at.micro_batch);
    const bool embeds = runner_.model_.embeds(at.chunk), reads = embeds || heads(at.chunk) || compares(at.chunk);
    Batch samples;
    if (reads) samples = batch(at.micro_batch);
    ModelInput input{.chunk = at.chunk};
    embeds ? input.tokens = samples.inputs : input.states = take(outputs_, at);
    if (!pass_.plan.trains) {
      at::Tensor output =
          runner_.model_.teach(input, runner_.context_of(step_, pass_, i, /*sink=*/nullptr), *teaching_of(at));
      if (!heads(at.chunk)) outputs_[at] = std::move(output);
    } else if (heads(at.chunk)) {
      learn(at, input, samples);
    } else {
      InFlight& flight = in_flight_[at];
      flight.sink = std::make_unique<PassGradients>(runner_.next_gradients(step_, pass_, i, at.chunk));
      flight.pass = runner_.model_.learn(
          input, samples.targets, runner_.context_of(step_, pass_, i, flight.sink.get()), runner_.scale_of(pass_),
          runner_.lesson_of(step_, pass_, static_cast<std::size_t>(at.micro_batch), at.chunk), teaching_of(at));
      features_.keep(at.micro_batch, flight.pass.compared.sums);
      outputs_[at] = flight.pass.output;
    }
    runner_.grid_.world().beat();
    if (reads) runner_.loader_->prefetch(next_sample_);
  }

  // What the micro-batch leaves to others; null: nobody learns from it.
  Teaching* teaching_of(Place at) const {
    if (pass_.teaching == nullptr) return nullptr;
    return &pass_.teaching->of_micro_batch[static_cast<std::size_t>(at.micro_batch)];
  }
  // Whether the pass learns from hidden states of the chunk.
  bool compares(int chunk) const {
    const std::vector<std::uint32_t>& layers = pass_.plan.feature_layers;
    return std::any_of(layers.begin(), layers.end(),
                       [&](std::uint32_t layer) { return runner_.model_.has_states(chunk, layer); });
  }

  // In the last chunk.
  void learn(Place at, const ModelInput& input, const Batch& samples) {
    const std::int64_t i = global(at.micro_batch);
    PassGradients sink = runner_.next_gradients(step_, pass_, i, at.chunk);
    LossAndGradients found = runner_.forward_backward(step_, pass_, i, input, samples.targets, &sink);
    gradients_[at] = std::move(found.gradients.states);
    if (runner_.model_.trains_table_of_first_stage()) {
      at::Tensor& table = found.gradients.parameters.at(static_cast<std::size_t>(table_info().trainable_index));
      heads_[at.micro_batch] = {.gradient = std::exchange(table, at::Tensor()), .tokens = samples.inputs};
    }
    features_.keep(at.micro_batch, found.feature_sums);
    if (features_.any()) found.features = features_.loss(at.micro_batch, found.feature_divisor);
    runner_.join(found, sink, step_);
  }

  void backward(Place at) {
    if (heads(at.chunk)) return;  // it was done with the forward pass
    if (attempt([&] { compute_backward(at); })) return;
    in_flight_.clear();
    gradients_.erase(at);
    if (!runner_.model_.embeds(at.chunk)) gradients_[at] = zeros();
    if (runner_.model_.embeds(at.chunk) && embeds_for_another()) embedded_[at.micro_batch] = zeros();
  }
  void compute_backward(Place at) {
    const auto found = in_flight_.find(at);
    QAT_CHECK(found != in_flight_.end(), "what goes backward has gone forward");
    StageGradients gradients = runner_.model_.backward(found->second.pass, take(gradients_, at));
    found->second.sink->finish(gradients.parameters, step_.produced);
    in_flight_.erase(found);
    if (!runner_.model_.embeds(at.chunk)) gradients_[at] = std::move(gradients.states);
    if (gradients.embedded.defined()) embedded_[at.micro_batch] = std::move(gradients.embedded);
    runner_.grid_.world().beat();
  }

  const ParameterInfo& table_info() const { return runner_.model_.parameters().info(runner_.model_.table_id()); }

  // At the last stage: those gradients of the table of which both parts are there, in order.
  void complete_tables() {
    if (step_.out_of_memory) embedded_.clear();
    while (!embedded_.empty()) {
      const std::int64_t m = embedded_.begin()->first;
      const auto head = heads_.find(m);
      QAT_CHECK(head != heads_.end() && m == heads_.begin()->first, "a table's gradients are complete in order");
      runner_.model_.add_embedding_gradient(head->second.gradient, head->second.tokens, take(embedded_, m));
      std::vector<at::Tensor> gradients(runner_.model_.parameters().trainable_tensors().size());
      gradients.at(static_cast<std::size_t>(table_info().trainable_index)) = std::move(head->second.gradient);
      heads_.erase(head);
      PassGradients sink =
          runner_.next_gradients(step_, pass_, global(m), runner_.model_.chunks() - 1, /*of_table=*/true);
      sink.finish(gradients, step_.produced);
    }
  }

  // From the first stage straight to the last one.
  void send_rest() {
    for (const std::int64_t m : route_.rest) {
      if (first()) transfers_.send(StageMessage::kEmbedded, take(embedded_, m), runner_.grid_.last_stage());
      if (last()) transfers_.receive(StageMessage::kEmbedded, embedded_[m] = empty_states(), /*stage=*/0);
    }
    transfer({});
  }

  // A head's gradient that waits for the embeddings'.
  struct HeadGradient {
    at::Tensor gradient, tokens;
  };

  StepRunner& runner_;
  Step& step_;
  const Pass& pass_;
  StageTransfers transfers_;
  StageFeatures features_;
  EmbeddedRoute route_;
  std::uint64_t next_sample_ = 0;
  std::map<Place, InFlight> in_flight_;
  std::map<Place, at::Tensor> outputs_;    // received, or to be sent
  std::map<Place, at::Tensor> gradients_;  // likewise, backward
  // By micro-batch of this replica.
  std::map<std::int64_t, at::Tensor> embedded_;  // on their way from the first stage to the last
  std::map<std::int64_t, HeadGradient> heads_;   // at the last stage
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
