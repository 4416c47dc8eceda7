#include "src/train/step_runner.h"

#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "dist/comm/agree.h"
#include "dist/grad/cuda_flat_memory.h"
#include "dist/grad/norm_block.h"
#include "dist/grad/recycling_memory.h"
#include "kernels/common/error.h"
#include "kernels/common/trace_range.h"
#include "src/quant/torch_errors.h"
#include "src/quant/torch_parallel.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

OptimLayout optim_layout(const ParameterStore& store, int ranks) {
  OptimLayout layout{.ranks = ranks};
  for (const FlatGroup& group : store.groups()) layout.groups.push_back({.layout = group.layout});
  for (const ParameterInfo& info : store.infos())
    if (info.trainable)
      layout.tensors.push_back({.group = info.group_index, .index = info.layout_index, .decay = info.decay});
  return layout;
}

kernels::Exec exec_of(const Gpt2& model) { return exec_for(model.parameters().tensor(0)); }

std::shared_ptr<dist::FlatMemory> memory_of(const Gpt2& model) {
  return model.mode().is_cuda() ? dist::cuda_flat_memory(exec_of(model).stream) : dist::host_flat_memory();
}

// A running sum's leaves come and go, and so do the sums of single widths' groups.
std::shared_ptr<dist::FlatMemory> gradient_memory(const Gpt2& model, Accumulate accumulate) {
  const std::vector<FlatGroup>& groups = model.parameters().groups();
  const bool widths = std::any_of(groups.begin(), groups.end(),
                                  [](const FlatGroup& group) { return group.key.kind == GroupKind::kWidth; });
  return widths || accumulate == Accumulate::kRunning ? dist::recycling_memory(memory_of(model)) : memory_of(model);
}

// The losses in double, in memory of the host once the device has done what it was given so far.
at::Tensor on_host(const std::vector<at::Tensor>& losses) {
  const at::Tensor all = at::stack(losses).to(at::kDouble);
  at::Tensor host = at::empty(all.sizes(), at::TensorOptions().dtype(at::kDouble).pinned_memory(all.is_cuda()));
  host.copy_(all, /*non_blocking=*/true);
  return host;
}

std::int64_t most_of(std::int64_t value, dist::Communicator& comm) {
  std::vector<std::int64_t> most = {value};
  comm.all_reduce(view(std::span(most)), dist::ReduceOp::kMax);
  return most[0];
}

// What run() does not carry out must not be asked of it.
void check_executable(const dist::StepPlan& plan, std::size_t maps) {
  dist::check(plan);
  QAT_CHECK(maps == plan.maps.size(), "a precision map for each of the plan's");
  for (const dist::UpdatePlan& update : plan.updates)
    for (const dist::PassPlan& pass : update.passes) {
      QAT_CHECK(pass.trains, "a pass that does not train: this build has no teachers");
      QAT_CHECK(pass.teachers.empty() && pass.loss.distillation == 0.0 && pass.loss.temperature == 1.0,
                "a pass that is taught: this build has no distillation");
    }
}

}  // namespace

void StepOutcome::add(UpdateOutcome update) {
  updates.push_back(std::move(update));
  double sum = 0.0;
  for (const UpdateOutcome& one : updates) sum += one.loss;
  loss = sum / static_cast<double>(updates.size());
  const UpdateOutcome& last = updates.back();
  if (updates.size() == 1 || last.grad_norm > grad_norm || std::isnan(last.grad_norm)) grad_norm = last.grad_norm;
  clipped = clipped || last.clipped;
  spike = spike || last.spike;
  skipped = last.skipped && (updates.size() == 1 || skipped);
}

StepRunner::StepRunner(Gpt2& model, const SampleSource& sampler, dist::Communicator& comm,
                       const StepRunnerOptions& options)
    : model_(model),
      sampler_(sampler),
      comm_(comm),
      options_(options),
      memory_(gradient_memory(model, options.train.accumulate)),
      optimizer_(optim_layout(model.parameters(), comm.size()), comm.rank(), options.optim, *memory_of(model)),
      global_norm_(optimizer_.layout(), *memory_of(model)),
      timer_(model.mode().device) {
  model.parameters().shard(comm.rank(), comm.size());
  set_micro_batch_size(options.train.micro_batch_size);
}

void StepRunner::set_micro_batch_size(std::int64_t sequences) {
  QAT_CHECK(sequences > 0 && options_.train.batch_size % (sequences * comm_.size()) == 0,
            "the global batch divides into equal micro-batches on every rank");
  options_.train.micro_batch_size = sequences;
  micro_batches_ = options_.train.batch_size / sequences;
  local_micro_batches_ = micro_batches_ / comm_.size();
  loader_.emplace(sampler_, sequences, options_.sequence_length, model_.mode().device);
  syncs_.clear();
  for (const FlatGroup& group : model_.parameters().groups())
    syncs_.emplace_back(
        comm_, group.layout, memory_,
        dist::GradSyncOptions{.order = options_.train.accumulate == Accumulate::kRunning ? dist::SumOrder::kRunning
                                                                                         : dist::SumOrder::kTree,
                              .group = dist::odd_part(local_micro_batches_),
                              .device = exec_of(model_).device,
                              .stream = exec_of(model_).stream});
  pace_ = dist::Pace();
}

bool StepRunner::take_refused() { return most_of(optimizer_.take_refused(exec_of(model_)) ? 1 : 0, comm_) != 0; }

void StepRunner::attempt(Step& step, const std::function<void()>& part) const {
  if (step.out_of_memory) return;
  try {
    part();
  } catch (const std::exception& error) {
    if (options_.train.on_out_of_memory == OnOutOfMemory::kStop || !is_out_of_memory(error)) throw;
    step.out_of_memory = true;
  }
}

std::uint64_t StepRunner::first_sample(const dist::StepPlan& plan, std::int64_t micro_batch) const {
  return plan.first_sample + static_cast<std::uint64_t>(micro_batch * options_.train.micro_batch_size);
}

bool StepRunner::stops(Step& step) {
  if (step.update > 0) return false;
  if (++step.unasked < pace_.units()) return false;
  timer_.pause();
  step.stop = step.poll.ask(pace_, step.unasked);
  timer_.resume();
  step.unasked = 0;
  return step.stop != 0;
}

LossAndGradients StepRunner::forward_backward(const Step& step, const Pass& pass, std::int64_t micro_batch,
                                              const Batch& batch, GradientSink* sink) {
  const ForwardContext context{.precision = &pass.precision,
                               .training = true,
                               .stochastic_gradients = options_.stochastic_gradients,
                               .weight_cache = &weight_cache_,
                               .gradient_sink = sink,
                               .seed = options_.seed,
                               .step = step.plan.step,
                               .micro_batch = static_cast<std::uint64_t>(micro_batch),
                               .pass = pass.number};
  // The valid targets of the global batch; the sum over its micro-batches is divided by their number later. Without
  // masked targets this is a micro-batch's own number of them, exactly.
  const auto valid = static_cast<double>(sampler_.valid_targets(options_.train.batch_size));
  const LossScale scale{.tokens = valid / static_cast<double>(micro_batches_), .weight = pass.plan.loss.cross_entropy};
  return model_.loss_and_gradients({.tokens = batch.inputs}, batch.targets, context, scale);
}

PassGradients StepRunner::next_gradients(const Step& step, const Pass& pass, std::int64_t micro_batch) {
  PassGradients::Hook hook;
  if (gradient_hook_)
    hook = [this, at = static_cast<std::int64_t>(step.plan.step), micro_batch](int id, const at::Tensor& gradient) {
      gradient_hook_(at, micro_batch, id, gradient);
    };
  return {model_.parameters(), syncs_, step.used[pass.plan.map], std::move(hook)};
}

void StepRunner::join(const LossAndGradients& pass, PassGradients& gradients, Step& step) {
  gradients.finish(pass.gradients.parameters, step.produced);
  comm_.beat();
  step.losses.push_back(pass.loss);
}

Batch StepRunner::batch_or_zeros(Step& step, const std::function<Batch()>& read) const {
  try {
    return read();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kData) throw;
    const std::lock_guard lock(step.reading);
    if (!step.unreadable) step.unreadable = error;
  }
  const auto zeros = [&](std::int64_t each) {
    return at::zeros({options_.train.micro_batch_size, each},
                     at::TensorOptions().dtype(at::kLong).device(model_.mode().device));
  };
  return {zeros(options_.sequence_length), zeros(sampler_.targets_per_sample())};
}

void StepRunner::run_in_turn(Step& step, const Pass& pass) {
  const std::int64_t first = comm_.rank() * local_micro_batches_;
  for (std::int64_t i = first; i < first + local_micro_batches_; ++i) {
    const bool last = i + 1 == first + local_micro_batches_;
    attempt(step, [&] {
      PassGradients gradients =
          next_gradients(step, pass, i);  // one pass may leave its gradients where they are wanted
      const Batch batch = batch_or_zeros(step, [&] { return loader_->take(first_sample(step.plan, i)); });
      join(forward_backward(step, pass, i, batch, &gradients), gradients, step);
      const auto next_step = static_cast<std::uint64_t>(pass.ends_step ? options_.train.batch_size : 0);
      loader_->prefetch(last ? first_sample(step.plan, first) + next_step : first_sample(step.plan, i + 1));
    });
    const bool ends_turn = last || (i + 1 - first) % most_threads_ == 0;
    if (ends_turn && !(last && pass.ends_update) && stops(step)) return;
  }
}

void StepRunner::run_round(Step& step, const Pass& pass, std::int64_t first, std::int64_t count) {
  std::vector<LossAndGradients> round(static_cast<std::size_t>(count));
  run_torch_parallel(count, options_.threads, [&](std::int64_t i) {
    const Batch batch = batch_or_zeros(step, [&] {
      return sample_batch(sampler_, first_sample(step.plan, first + i), options_.train.micro_batch_size,
                          options_.sequence_length, model_.mode().device);
    });
    round[static_cast<std::size_t>(i)] = forward_backward(step, pass, first + i, batch, /*sink=*/nullptr);
  });
  for (std::int64_t i = 0; i < count; ++i) {
    PassGradients gradients = next_gradients(step, pass, first + i);
    join(round[static_cast<std::size_t>(i)], gradients, step);
  }
}

void StepRunner::run_side_by_side(Step& step, const Pass& pass) {
  const std::int64_t first = comm_.rank() * local_micro_batches_;
  // Rounds of as many micro-batches as there are threads; gradients join the sum in order, so threads change no bit.
  // Ranks may have unequally many threads, and ask at the same places all the same.
  for (std::int64_t turn = 0; turn < local_micro_batches_; turn += most_threads_) {
    const std::int64_t end = std::min(turn + most_threads_, local_micro_batches_);
    for (std::int64_t begin = turn; begin < end; begin += options_.threads)
      attempt(step,
              [&] { run_round(step, pass, first + begin, std::min<std::int64_t>(options_.threads, end - begin)); });
    if (!(end == local_micro_batches_ && pass.ends_update) && stops(step)) return;
  }
}

void StepRunner::run_passes(Step& step) {
  const std::vector<dist::UpdatePlan>& updates = step.plan.updates;
  const std::vector<dist::PassPlan>& passes = update_of(step).passes;
  std::uint64_t number = 0;
  for (std::size_t before = 0; before < step.update; ++before) number += updates[before].passes.size();
  for (std::size_t i = 0; i < passes.size() && step.stop == 0; ++i) {
    const bool ends_update = i + 1 == passes.size();
    const Pass pass{.plan = passes[i],
                    .precision = step.maps[passes[i].map],
                    .number = number + i,
                    .ends_update = ends_update,
                    .ends_step = ends_update && step.update + 1 == updates.size()};
    // The weights have changed since the last update; at another width they are made ready anew, in the same memory.
    if (i == 0 || passes[i].map != passes[i - 1].map) {
      weight_cache_.clear();
      model_.parameters().gather(step.used[passes[i].map], comm_);
    }
    options_.threads == 1 ? run_in_turn(step, pass) : run_side_by_side(step, pass);
  }
}

void StepRunner::agree_on_loss(const Step& step, const at::Tensor& losses, UpdateOutcome& update,
                               StepOutcome& outcome) {
  const std::vector<dist::PassPlan>& passes = update_of(step).passes;
  const auto of_pass = static_cast<std::size_t>(local_micro_batches_);
  std::vector<double> mine(passes.size() * of_pass);
  if (!step.out_of_memory) std::copy_n(losses.const_data_ptr<double>(), losses.numel(), mine.begin());
  const bool refused = optimizer_.take_refused(exec_of(model_));
  const auto flag = [](bool value) { return value ? 1.0 : 0.0; };
  // What a rank says beside its losses.
  const std::array words = {flag(step.unreadable.has_value()), flag(step.out_of_memory), flag(refused),
                            static_cast<double>(step.poll.requested()), timer_.seconds()};
  mine.insert(mine.end(), words.begin(), words.end());
  std::vector<double> all(mine.size() * static_cast<std::size_t>(comm_.size()));
  comm_.all_gather(view(std::span<const double>(mine)), view(std::span(all)));
  update.losses.assign(passes.size(), 0.0);
  outcome.own_seconds.resize(static_cast<std::size_t>(comm_.size()));
  double stop = 0.0, unreadable = 0.0;
  for (std::size_t begin = 0; begin < all.size(); begin += mine.size()) {
    const std::span<const double> of_rank(all.data() + begin, mine.size());
    const std::span<const double> said = of_rank.last(words.size());
    for (std::size_t i = 0; i < passes.size() * of_pass; ++i) update.losses[i / of_pass] += of_rank[i];
    unreadable = std::max(unreadable, said[0]);
    const std::size_t rank = begin / mine.size();
    if (said[1] != 0.0) outcome.out_of_memory.push_back(static_cast<int>(rank));
    outcome.refused = outcome.refused || said[2] != 0.0;
    stop = std::max(stop, said[3]);
    outcome.own_seconds[rank] += said[4];
  }
  if (unreadable > 0.0)
    dist::on_every_rank(comm_, "training tokens", [&] {
      if (step.unreadable) throw Error(*step.unreadable);
    });
  for (std::size_t i = 0; i < passes.size(); ++i) {
    update.losses[i] /= static_cast<double>(micro_batches_);
    const double weighted = passes[i].loss.cross_entropy * update.losses[i];
    update.loss = i == 0 ? weighted : update.loss + weighted;
  }
  outcome.stop = std::max(outcome.stop, static_cast<int>(stop));
}

void StepRunner::start_exchange(const Step& step, bool with_passes) {
  for (std::size_t g = 0; g < syncs_.size(); ++g) {
    std::int64_t passes = 0;
    for (const dist::PassPlan& pass : update_of(step).passes) passes += step.used[pass.map][g] ? 1 : 0;
    passes > 0 ? syncs_[g].start(with_passes ? passes * local_micro_batches_ : 0) : syncs_[g].rest();
  }
}

StepOutcome StepRunner::run(const dist::StepPlan& plan, std::span<const PrecisionMap> maps, dist::StopPoll& poll,
                            const SpikeTest& is_spike, const StepOutcome& so_far) {
  const TraceRange range("step");
  check_executable(plan, maps.size());
  if (most_threads_ == 0) most_threads_ = most_of(options_.threads, comm_);
  StepOutcome outcome = so_far;
  outcome.abandoned = false;
  outcome.out_of_memory.clear();
  poll.start();
  std::vector<std::vector<bool>> used;
  for (const PrecisionMap& map : maps) used.push_back(model_.groups_used(map));
  for (std::size_t update = so_far.updates.size(); update < plan.updates.size(); ++update) {
    Step step{.plan = plan, .update = update, .maps = maps, .used = used, .poll = poll};
    if (run_update(step, is_spike, outcome)) continue;
    outcome.abandoned = true;
    break;
  }
  return outcome;
}

bool StepRunner::run_update(Step& step, const SpikeTest& is_spike, StepOutcome& outcome) {
  start_exchange(step, /*with_passes=*/true);
  timer_.start();
  run_passes(step);
  if (step.stop != 0) {
    outcome.stop = step.stop;
    return false;
  }
  if (step.out_of_memory)  // zeros: the other ranks' collectives need a partner
    start_exchange(step, /*with_passes=*/false);
  const at::Tensor losses = step.out_of_memory ? at::Tensor() : on_host(step.losses);
  timer_.stop();
  std::vector<dist::BucketShards> gradient;
  {
    const TraceRange exchange("gradient exchange");
    for (dist::GradSync& sync : syncs_) gradient.push_back(sync.rests() ? dist::BucketShards() : sync.finish());
  }
  const kernels::Exec exec = exec_of(model_);
  UpdateOutcome update;
  {
    const TraceRange norm("gradient norm");
    // Waits for the device, for the first time in the update; the losses are there when the norm is.
    const dist::WaitMark wait(exec.device == Device::kCuda ? options_.board : nullptr, dist::WaitFor::kDevice);
    update.grad_norm = global_norm_(comm_, exec, gradient) * (1.0 / static_cast<double>(micro_batches_));
  }
  agree_on_loss(step, losses, update, outcome);
  if (!outcome.out_of_memory.empty()) return false;
  if (loss_hook_) update.loss = loss_hook_(static_cast<std::int64_t>(step.plan.step), update.loss);
  // Both numbers have the same bits on every rank, so every rank takes the same branch.
  update.spike = is_spike && std::isfinite(update.loss) && is_spike(update_of(step), update.loss);
  update.skipped = update.spike || !std::isfinite(update.loss) || !std::isfinite(update.grad_norm);
  if (!update.skipped) apply(step, gradient, update);
  outcome.add(std::move(update));
  return true;
}

void StepRunner::apply(Step& step, const std::vector<dist::BucketShards>& gradient, UpdateOutcome& update) {
  if (before_update_) before_update_();
  const TraceRange range("update");
  double scale = 1.0 / static_cast<double>(micro_batches_);
  update.clipped = options_.optim.clip_norm > 0.0 && update.grad_norm > options_.optim.clip_norm;
  if (update.clipped) scale *= options_.optim.clip_norm / update.grad_norm;
  ParameterStore& store = model_.parameters();
  std::vector<ShardValues> own;
  for (std::size_t g = 0; g < syncs_.size(); ++g) own.push_back(store.own_shards(static_cast<int>(g)));
  optimizer_.step(exec_of(model_), own, gradient, step.produced, update_of(step).learning_rate, scale);
  for (std::size_t g = 0; g < syncs_.size(); ++g) {
    if (gradient[g].empty()) continue;
    if (!store.groups()[g].is_sharded()) syncs_[g].gather(span_of(store.groups()[g].values));
    store.updated(static_cast<int>(g));
  }
}

}  // namespace qat
