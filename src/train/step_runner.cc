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

// A running sum's leaves come and go.
std::shared_ptr<dist::FlatMemory> gradient_memory(const Gpt2& model, Accumulate accumulate) {
  return accumulate == Accumulate::kRunning ? dist::recycling_memory(memory_of(model)) : memory_of(model);
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

}  // namespace

StepRunner::StepRunner(Gpt2& model, const Sampler& sampler, dist::Communicator& comm, const StepRunnerOptions& options)
    : model_(model),
      sampler_(sampler),
      comm_(comm),
      options_(options),
      memory_(gradient_memory(model, options.train.accumulate)),
      optimizer_(optim_layout(model.parameters(), comm.size()), comm.rank(), options.optim, *memory_of(model)),
      global_norm_(optimizer_.layout(), *memory_of(model)),
      timer_(model.mode().device) {
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
  if (++step.unasked < pace_.units()) return false;
  timer_.pause();
  step.stop = step.poll.ask(pace_, step.unasked);
  timer_.resume();
  step.unasked = 0;
  return step.stop != 0;
}

LossAndGradients StepRunner::forward_backward(const Step& step, std::int64_t micro_batch, const Batch& batch,
                                              GradientSink* sink) {
  const ForwardContext context{.precision = &step.precision,
                               .training = true,
                               .stochastic_gradients = options_.stochastic_gradients,
                               .weight_cache = &weight_cache_,
                               .gradient_sink = sink,
                               .seed = options_.seed,
                               .step = step.plan.step,
                               .micro_batch = static_cast<std::uint64_t>(micro_batch)};
  return model_.loss_and_gradients({.tokens = batch.inputs}, batch.targets, context);
}

PassGradients StepRunner::next_gradients(const Step& step, std::int64_t micro_batch) {
  PassGradients::Hook hook;
  if (gradient_hook_)
    hook = [this, at = static_cast<std::int64_t>(step.plan.step), micro_batch](int id, const at::Tensor& gradient) {
      gradient_hook_(at, micro_batch, id, gradient);
    };
  return {model_.parameters(), syncs_, std::move(hook)};
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
  const at::Tensor zeros = at::zeros({options_.train.micro_batch_size, options_.sequence_length},
                                     at::TensorOptions().dtype(at::kLong).device(model_.mode().device));
  return {zeros, zeros};
}

void StepRunner::run_in_turn(Step& step) {
  const std::int64_t first = comm_.rank() * local_micro_batches_;
  for (std::int64_t i = first; i < first + local_micro_batches_; ++i) {
    const bool last = i + 1 == first + local_micro_batches_;
    attempt(step, [&] {
      PassGradients gradients = next_gradients(step, i);  // one pass may leave its gradients where they are wanted
      const Batch batch = batch_or_zeros(step, [&] { return loader_->take(first_sample(step.plan, i)); });
      join(forward_backward(step, i, batch, &gradients), gradients, step);
      const auto next_step = static_cast<std::uint64_t>(options_.train.batch_size);
      loader_->prefetch(last ? first_sample(step.plan, first) + next_step : first_sample(step.plan, i + 1));
    });
    if (!last && (i + 1 - first) % most_threads_ == 0 && stops(step)) return;
  }
}

void StepRunner::run_round(Step& step, std::int64_t first, std::int64_t count) {
  std::vector<LossAndGradients> round(static_cast<std::size_t>(count));
  run_torch_parallel(count, options_.threads, [&](std::int64_t i) {
    const Batch batch = batch_or_zeros(step, [&] {
      return sample_batch(sampler_, first_sample(step.plan, first + i), options_.train.micro_batch_size,
                          options_.sequence_length, model_.mode().device);
    });
    round[static_cast<std::size_t>(i)] = forward_backward(step, first + i, batch, /*sink=*/nullptr);
  });
  for (std::int64_t i = 0; i < count; ++i) {
    PassGradients gradients = next_gradients(step, first + i);
    join(round[static_cast<std::size_t>(i)], gradients, step);
  }
}

void StepRunner::run_side_by_side(Step& step) {
  const std::int64_t first = comm_.rank() * local_micro_batches_;
  // Rounds of as many passes as there are threads; gradients join the sum in order, so threads change no bit. Ranks may
  // have unequally many threads, and ask at the same places all the same.
  for (std::int64_t turn = 0; turn < local_micro_batches_; turn += most_threads_) {
    const std::int64_t end = std::min(turn + most_threads_, local_micro_batches_);
    for (std::int64_t begin = turn; begin < end; begin += options_.threads)
      attempt(step, [&] { run_round(step, first + begin, std::min<std::int64_t>(options_.threads, end - begin)); });
    if (end < local_micro_batches_ && stops(step)) return;
  }
}

void StepRunner::agree_on_loss(const Step& step, const at::Tensor& losses, StepOutcome& outcome) {
  std::vector<double> mine(static_cast<std::size_t>(local_micro_batches_));
  if (!step.out_of_memory) std::copy_n(losses.const_data_ptr<double>(), losses.numel(), mine.begin());
  const bool refused = optimizer_.take_refused(exec_of(model_));
  const auto flag = [](bool value) { return value ? 1.0 : 0.0; };
  // What a rank says beside its losses.
  const std::array words = {flag(step.unreadable.has_value()), flag(step.out_of_memory), flag(refused),
                            static_cast<double>(step.poll.requested()), timer_.seconds()};
  mine.insert(mine.end(), words.begin(), words.end());
  std::vector<double> all(mine.size() * static_cast<std::size_t>(comm_.size()));
  comm_.all_gather(view(std::span<const double>(mine)), view(std::span(all)));
  double sum = 0.0, stop = 0.0, unreadable = 0.0;
  for (std::size_t begin = 0; begin < all.size(); begin += mine.size()) {
    const std::span<const double> of_rank(all.data() + begin, mine.size());
    const std::span<const double> said = of_rank.last(words.size());
    for (const double loss : of_rank.first(mine.size() - words.size())) sum += loss;
    unreadable = std::max(unreadable, said[0]);
    if (said[1] != 0.0) outcome.out_of_memory.push_back(static_cast<int>(begin / mine.size()));
    outcome.refused = outcome.refused || said[2] != 0.0;
    stop = std::max(stop, said[3]);
    outcome.own_seconds.push_back(said[4]);
  }
  if (unreadable > 0.0)
    dist::on_every_rank(comm_, "training tokens", [&] {
      if (step.unreadable) throw Error(*step.unreadable);
    });
  outcome.loss = sum / static_cast<double>(micro_batches_);
  outcome.stop = static_cast<int>(stop);
}

StepOutcome StepRunner::run(const dist::StepPlan& plan, const PrecisionMap& precision, dist::StopPoll& poll,
                            const SpikeTest& is_spike) {
  const TraceRange range("step");
  weight_cache_.clear();  // the weights have changed since the last step
  for (dist::GradSync& sync : syncs_) sync.start(local_micro_batches_);
  if (most_threads_ == 0) most_threads_ = most_of(options_.threads, comm_);
  Step step{.plan = plan, .precision = precision, .poll = poll};
  timer_.start();
  poll.start();
  options_.threads == 1 ? run_in_turn(step) : run_side_by_side(step);
  StepOutcome outcome;
  if (step.stop != 0) {
    outcome.stop = step.stop;
    outcome.abandoned = true;
    return outcome;
  }
  if (step.out_of_memory)  // zeros: the other ranks' collectives need a partner
    for (dist::GradSync& sync : syncs_) sync.start(0);
  const at::Tensor losses = step.out_of_memory ? at::Tensor() : on_host(step.losses);
  timer_.stop();
  std::vector<dist::BucketShards> gradient;
  {
    const TraceRange exchange("gradient exchange");
    for (dist::GradSync& sync : syncs_) gradient.push_back(sync.finish());
  }
  const kernels::Exec exec = exec_of(model_);
  const double mean = 1.0 / static_cast<double>(micro_batches_);
  {
    const TraceRange norm("gradient norm");
    // Waits for the device, for the first time in the step; the losses are there when the norm is.
    const dist::WaitMark wait(exec.device == Device::kCuda ? options_.board : nullptr, dist::WaitFor::kDevice);
    outcome.grad_norm = global_norm_(comm_, exec, gradient) * mean;
  }
  agree_on_loss(step, losses, outcome);
  if (!outcome.out_of_memory.empty()) {
    outcome.abandoned = true;
    return outcome;
  }
  if (loss_hook_) outcome.loss = loss_hook_(static_cast<std::int64_t>(plan.step), outcome.loss);
  // Both numbers have the same bits on every rank, so every rank takes the same branch.
  outcome.spike = is_spike && std::isfinite(outcome.loss) && is_spike(outcome.loss);
  outcome.skipped = outcome.spike || !std::isfinite(outcome.loss) || !std::isfinite(outcome.grad_norm);
  if (outcome.skipped) return outcome;

  if (before_update_) before_update_();
  double scale = mean;
  outcome.clipped = options_.optim.clip_norm > 0.0 && outcome.grad_norm > options_.optim.clip_norm;
  if (outcome.clipped) scale *= options_.optim.clip_norm / outcome.grad_norm;
  const TraceRange update("update");
  std::vector<std::span<float>> params;
  for (const FlatGroup& group : model_.parameters().groups()) params.push_back(span_of(group.values));
  optimizer_.step(exec, params, gradient, step.produced, plan.learning_rate, scale);
  for (std::size_t i = 0; i < syncs_.size(); ++i) syncs_[i].gather(params[i]);
  return outcome;
}

}  // namespace qat
