// One step on one rank, as its plan says: of each update the passes over its micro-batches, forward and backward, the
// gradient over all ranks, the update of the parameters.
//
// The gradient of an update is that of the mean loss over the valid targets of the global batch, by the passes'
// weights, summed as one balanced binary tree: this rank's contiguous micro-batches pairwise, pass after pass, then the
// ranks (dist/grad); `accumulate: running` sums a rank's one after the other instead. With one pass the tree is the
// same whatever the number of ranks. What a micro-batch contains, and every random draw in it, depends on (seed, step,
// index in the global batch, number of the pass in the step) alone.
//
// Where the model is cut into stages, a rank has one of them, and micro-batches go through the stages of its replica
// (step_stages.cc): gradients join each stage's sum in the same order, so that cuts change no bit either.
//
// Updates of a step are judged one by one: one that is skipped changes nothing, and the next goes on. A stop on the way
// is obeyed within the first update only, while nothing has changed; after that the step goes to its end.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "dist/control/step_plan.h"
#include "dist/control/stop_poll.h"
#include "dist/grid/process_grid.h"
#include "dist/pipeline/schedule.h"
#include "dist/watch/progress_board.h"
#include "kernels/common/error.h"
#include "src/data/sample_source.h"
#include "src/model/gpt2.h"
#include "src/model/stage_transfers.h"
#include "src/optim/global_norm.h"
#include "src/optim/sharded_adamw.h"
#include "src/train/batch.h"
#include "src/train/gradient_sync.h"
#include "src/train/pass_gradients.h"
#include "src/train/stage_timeline.h"
#include "src/train/train_config.h"
#include "src/train/wait_times.h"
#include "src/train/work_timer.h"

namespace qat {

// Means over the global batch, without weights; of a pass that only teaches, zeros.
struct PassLosses {
  double cross_entropy = 0.0;
  double distillation = 0.0;  // zero for a pass that learns nothing of its kind
  double features = 0.0;
};

// The same on every rank, as is what follows.
struct UpdateOutcome {
  double loss = 0.0;               // mean over the global batch, before the update: all passes', by their weights
  double judged = 0.0;             // what says how good the parameters are: the loss, or with teachers the mean of the
                                   // passes' cross-entropies
  std::vector<PassLosses> losses;  // of each pass
  double grad_norm = 0.0;          // of that loss, before clipping
  bool clipped = false;
  bool skipped = false;  // loss or gradient was not finite, or a spike: no parameter changed
  bool spike = false;    // why it was skipped: the loss stood out
};

struct StepOutcome {
  std::vector<UpdateOutcome> updates;  // those that are through, in order
  double loss = 0.0;                   // mean over the updates
  double grad_norm = 0.0;              // the largest
  bool clipped = false;                // one of them
  bool skipped = false;                // all of them: no parameter changed
  bool spike = false;                  // one of them
  bool abandoned =
      false;  // given up on the way, for `stop` or for want of memory: what is not in `updates` has not begun
  bool refused = false;              // an update before the last one left elements alone (ShardedAdamW)
  std::vector<int> out_of_memory;    // ranks whose memory did not suffice for the next update
  int stop = 0;                      // why to stop (dist/control/stop_poll.h), 0: go on
  std::vector<double> own_seconds;   // by rank: its own work, without waiting for others
  WireReport wire;                   // of this rank's exchanges, all updates'
  TransferBytes transfers;           // between stages, of all ranks
  std::optional<double> wire_error;  // of the first exchange of codes, where it was measured

  void add(UpdateOutcome update);  // to `updates`, and to what is said of them all
};

// Asked between an update's loss and the update, on every rank with the same numbers: whether to skip it.
using SpikeTest = std::function<bool(const dist::UpdatePlan& update, double loss)>;

struct StepRunnerOptions {
  std::uint64_t seed = 1;
  std::int64_t sequence_length = 0;
  TrainConfig train;
  OptimConfig optim;
  bool stochastic_gradients = true;
  CommConfig comm{};
  int places = 0;      // GradientSyncOptions'
  bool early = false;  // likewise
  int threads = 1;  // micro-batches of this rank that are computed at the same time, each on one thread; 1 with stages
  dist::PipelineSchedule schedule = dist::PipelineSchedule::kOneFOneB;  // of the stages
  StageTransfer transfer = StageTransfer::kValues;                      // between the stages
  bool beside_on_cpus = false;           // parameters are waited for as on GPUs, where they come beside computing
  dist::ProgressBoard* board = nullptr;  // where waiting for a GPU is marked; null: nobody watches
};

class StepRunner {
 public:
  // Optional hooks, called on this rank: with the loss that the ranks have agreed on, in whose place the result is
  // taken; and with every trainable parameter's gradient of every micro-batch, on the model's device, before it joins
  // the sum.
  using LossHook = std::function<double(std::int64_t step, double loss)>;
  using GradientHook =
      std::function<void(std::int64_t step, std::int64_t micro_batch, int id, const at::Tensor& gradient)>;

  // Called on this rank before a step changes parameters or the optimizer's state.
  using BeforeUpdate = std::function<void()>;

  // On a GPU all steps run on the stream that is LibTorch's current one now.
  // model: this rank's stage of the grid. What the grid's groups refer to outlives this.
  StepRunner(Gpt2& model, const SampleSource& sampler, const dist::Grid& grid, const StepRunnerOptions& options);
  ~StepRunner();

  // maps: those of the plan, for every layer. `poll`: asked between micro-batches, where they take long, and with the
  // losses. `is_spike` may be empty. so_far: of a step that memory did not suffice for; it goes on after the updates
  // that are through. ahead: the maps of plan.ahead, or nothing; what is read at the first of them is on its way when
  // this returns. Throws Error(kInternal) for a plan of which not all is carried out here.
  StepOutcome run(const dist::StepPlan& plan, std::span<const PrecisionMap> maps, dist::StopPoll& poll,
                  const SpikeTest& is_spike = {}, const StepOutcome& so_far = {},
                  std::span<const PrecisionMap> ahead = {});

  // Passes of so many sequences from now on: the global batch stays, and divides into equal numbers of them.
  void set_micro_batch_size(std::int64_t sequences);
  std::int64_t micro_batch_size() const { return options_.train.micro_batch_size; }
  // Collective: whether updates since the last question left elements alone, on any rank. run() asks, too.
  bool take_refused();

  // Of each trainable tensor of this stage, the norm of its gradient in the last update, before clipping; 0 where the
  // update left its group alone.
  std::vector<double> gradient_norms() const;

  // Collective: the owners of parameters have changed them, and everyone will read their new values.
  void share_parameters();

  ShardedAdamW& optimizer() { return optimizer_; }
  GradientSync& gradients() { return gradients_; }
  const GradientSync& gradients() const { return gradients_; }
  void set_loss_hook(LossHook hook) { loss_hook_ = std::move(hook); }
  void set_gradient_hook(GradientHook hook) { gradient_hook_ = std::move(hook); }
  void set_before_update(BeforeUpdate wait) { before_update_ = std::move(wait); }
  // Where the stage's actions are timed; null: nowhere.
  void set_timeline(StageTimeline* timeline) { timeline_ = timeline; }
  // Told what passes that train see of inputs with running ranges; null: nobody.
  void set_range_sink(RangeSink* sink) { range_sink_ = sink; }
  // Elements that the groups' buckets must be multiples of on `ranks` data-parallel ranks.
  static std::int64_t padding(int ranks) { return kNormBlock * ranks; }

 private:
  // What a pass leaves to later ones of its update.
  struct PassTeaching {
    TeacherHead head;
    std::vector<Teaching> of_micro_batch;  // this rank's
  };
  // What all micro-batches of an update share.
  struct Step {
    const dist::StepPlan& plan;
    std::size_t update;  // of the plan
    std::span<const PrecisionMap> maps;
    std::span<const std::vector<bool>> used;  // by map, the model's groups
    std::span<const PrecisionMap> ahead;      // of the next step's first update
    dist::StopPoll& poll;
    std::vector<bool> produced;          // gradients, by trainable tensor
    std::vector<at::Tensor> losses;      // of the passes in turn, each in order of micro-batches, of each its parts
    std::vector<PassTeaching> taught{};  // by pass; what nobody learns from any more is gone
    int stop = 0;                        // the poll's answer on the way
    bool out_of_memory = false;          // of this rank; it goes through the rest of the step without working
    bool given_up = false;               // on every rank: one of them cannot take part in what comes next
    bool has_losses() const { return !out_of_memory && !given_up; }
    std::int64_t unasked = 0;           // turns since the poll was asked
    std::mutex reading{};               // guards what follows
    std::optional<Error> unreadable{};  // why tokens of this rank could not be read
  };
  const dist::UpdatePlan& update_of(const Step& step) const { return step.plan.updates[step.update]; }
  // One pass over all of this rank's micro-batches.
  struct Pass {
    const dist::PassPlan& plan;
    const PrecisionMap& precision;
    std::uint64_t number;    // in the step
    PassTeaching* teaching;  // what it leaves; null: nobody learns from it
    bool ends_update;        // the update has no more passes
    bool ends_step;          // nor has the step
  };
  // Number of the first sample of a micro-batch in the run.
  std::uint64_t first_sample(const dist::StepPlan& plan, std::int64_t micro_batch) const;
  // What `read` returns. If its tokens cannot be read, zeros, for the other ranks wait for this one in the step's
  // collectives: after those, and before any parameter changes, all ranks throw.
  Batch batch_or_zeros(Step& step, const std::function<Batch()>& read) const;
  // Runs a part of this rank's step; notes what the memory does not suffice for, where that is to be tried again.
  void attempt(Step& step, const std::function<void()>& part) const;
  ForwardContext context_of(const Step& step, const Pass& pass, std::int64_t micro_batch, GradientSink* sink);
  // This rank's first one in the global batch.
  std::int64_t first_micro_batch() const { return grid_.data_rank() * local_micro_batches_; }
  // Number of a micro-batch among this rank's.
  std::size_t local(std::int64_t micro_batch) const {
    return static_cast<std::size_t>(micro_batch - first_micro_batch());
  }
  // What a pass learns beside its targets, in one chunk of the stage.
  Lesson lesson_of(const Step& step, const Pass& pass, std::size_t micro_batch, int chunk) const;
  // Of this rank's micro-batches, in all passes.
  LossScale scale_of(const Pass& pass) const;
  // sink: where gradients may be left, or null.
  LossAndGradients forward_backward(const Step& step, const Pass& pass, std::int64_t micro_batch,
                                    const ModelInput& input, const at::Tensor& targets, GradientSink* sink);
  // A micro-batch of a pass that only teaches.
  void teach(const Step& step, const Pass& pass, std::int64_t micro_batch, const Batch& batch);
  // The sink of the pass that joins the step next, of one chunk of the stage. A table that is complete only with what
  // another stage owes it has a sink of its own, with of_table.
  PassGradients next_gradients(const Step& step, const Pass& pass, std::int64_t micro_batch, int chunk = 0,
                               bool of_table = false);
  // Adds a pass to the step.
  void join(const LossAndGradients& pass, PassGradients& gradients, Step& step);
  // Makes room for what the pass leaves to others, if any learn from it.
  PassTeaching* prepare_teaching(Step& step, std::size_t pass);
  // Drops what nobody learns from after this pass.
  static void drop_taught(Step& step, const dist::UpdatePlan& update, std::size_t pass);
  class StagedPass;  // step_stages.cc
  // The table that the last stage trains, to the first stage's copy.
  void renew_copy_of_table();
  // Of the groups that the update uses; the others rest.
  void start_exchange(const Step& step);
  // All of this rank's micro-batches, until the poll says stop: one at a time, or as many at once as there are threads.
  void run_in_turn(Step& step, const Pass& pass);
  void run_side_by_side(Step& step, const Pass& pass);
  // All of this replica's micro-batches through its stages; a stop waits for the end of the pass.
  void run_through_stages(Step& step, const Pass& pass);
  // That many micro-batches at once.
  void run_round(Step& step, const Pass& pass, std::int64_t first, std::int64_t count);
  // Holds what this pass of the update uses, as ParameterStore::gather. False: the update is given up.
  bool hold(Step& step, std::size_t pass);
  // The maps of an update's passes, each once, that of its first pass in front.
  static std::vector<const PrecisionMap*> maps_of(const Step& step, std::size_t update);
  // Those of what comes after this update, as far as it is known.
  static std::vector<const PrecisionMap*> maps_after(const Step& step);
  // What passes at the first of these maps, all those of an update, read as codes, where these cost less than values.
  std::vector<int> code_bits(std::span<const PrecisionMap* const> maps) const;
  // Of single widths' groups that this pass does not use, those that the one after it does, and that will not have
  // changed by then.
  std::vector<bool> groups_beside(const Step& step, std::size_t pass) const;
  // Values of groups that there is room for, as ParameterStore::send; what computing waits for meanwhile is counted.
  void send(const std::vector<bool>& groups, std::span<const int> code_bits);
  // Sends what is read first after this update.
  void send_ahead(const Step& step);
  // Whether the groups have memory on every rank, where they are to agree on that; else an error if they have none
  // here.
  bool make_room(const std::vector<bool>& groups) const;
  // All passes of an update, until the poll says stop.
  void run_passes(Step& step);
  // An update from its passes to the parameters, added to the outcome; false: the step is abandoned.
  bool run_update(Step& step, const SpikeTest& is_spike, StepOutcome& outcome);
  // Others' new values of a group, but where these come with the next pass that reads them.
  void bring_back(int group);
  // Whether optim.clip_norm is for each width's own gradients by themselves, and for all others.
  bool clips_by_width() const;
  // By group, what the optimizer multiplies the last exchange's sums by: means, clipped; `update` says so then. The
  // same on every rank, whatever its stage.
  std::vector<double> scales_of(const Step& step, UpdateOutcome& update) const;
  // Of the passes that the update trains, those that use what a width has for itself.
  double share_of_width(const Step& step, int bits) const;
  // optim.noise, on this rank's shards of the gradients. scales: what the optimizer multiplies them by.
  void add_noise(const Step& step, std::span<const double> scales);
  void apply(Step& step, const std::vector<dist::BucketShards>& gradient, UpdateOutcome& update);
  // After most_threads_ more micro-batches, with more to come: whether to give the step up.
  bool stops(Step& step);
  // Each pass's mean loss over the global batch in order of micro-batches, and theirs by weight; the largest reason to
  // stop, and who worked how long. losses: this rank's, on the host. Throws AgreedError if a rank could not read its
  // tokens.
  void agree_on_loss(const Step& step, const at::Tensor& losses, UpdateOutcome& update, StepOutcome& outcome);

  Gpt2& model_;
  const SampleSource& sampler_;
  std::optional<BatchLoader> loader_;
  dist::Grid grid_;
  StepRunnerOptions options_;
  std::int64_t micro_batches_ = 0;        // of the global batch
  std::int64_t local_micro_batches_ = 0;  // of this rank
  std::int64_t most_threads_ = 0;         // of any rank: so many micro-batches are a turn, after which all may ask
  GradientSync gradients_;
  ShardedAdamW optimizer_;
  GlobalNorm global_norm_;
  WeightCache weight_cache_;
  // Whether weights wait for the next pass's widths when they have been updated; else they come back as they are.
  bool weights_as_codes_ = false;
  // Whether parameters are sent before they are read, and also while passes run that do not read them.
  bool sends_ahead_ = false, sends_beside_ = false;
  dist::WireStaging weight_staging_;
  std::int64_t weight_bytes_ = 0;  // sent of updated values since the last report
  WaitTimes weight_waits_;         // for them
  TransferBytes transfer_bytes_;   // likewise, of hidden states and their gradients
  LossHook loss_hook_;
  GradientHook gradient_hook_;
  BeforeUpdate before_update_;
  RangeSink* range_sink_ = nullptr;
  StageTimeline* timeline_ = nullptr;
  dist::Pace pace_;
  WorkTimer timer_;
};

}  // namespace qat
