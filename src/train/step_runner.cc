#include "src/train/step_runner.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "dist/grad/cuda_flat_memory.h"
#include "kernels/common/error.h"
#include "src/base/parallel.h"
#include "src/quant/torch_view.h"
#include "src/train/batch.h"

namespace qat {
namespace {

std::vector<OptimSegment> segments_of(const ParameterStore& store) {
  std::vector<OptimSegment> segments;
  for (const ParameterInfo& info : store.infos())
    if (info.trainable) segments.push_back({.offset = info.offset, .elems = info.elems, .decay = info.decay});
  return segments;
}

std::shared_ptr<dist::FlatMemory> memory_of(const Gpt2& model) {
  return model.mode().is_cuda() ? dist::cuda_flat_memory() : dist::host_flat_memory();
}

}  // namespace

StepRunner::StepRunner(Gpt2& model, const Sampler& sampler, dist::Communicator& comm, const StepRunnerOptions& options)
    : model_(model),
      sampler_(sampler),
      comm_(comm),
      options_(options),
      micro_batches_(options.train.batch_size / options.train.micro_batch_size),
      local_micro_batches_(micro_batches_ / comm.size()),
      reducer_(comm, model.parameters().trainable_elems(), kNormBlock,
               model.mode().is_cuda() ? Device::kCuda : Device::kCpu),
      accumulator_(reducer_.padded_elems(), memory_of(model)),
      optimizer_(segments_of(model.parameters()), reducer_.shard(), options.optim, *memory_of(model)) {
  QAT_CHECK(local_micro_batches_ * comm.size() * options.train.micro_batch_size == options.train.batch_size,
            "the global batch divides into equal micro-batches on every rank");
  QAT_CHECK(static_cast<std::int64_t>(model.parameters().trainable_flat().size()) == reducer_.padded_elems(),
            "the flat buffer is padded for this number of ranks");
}

StepRunner::Pass StepRunner::forward_backward(const dist::StepPlan& plan, const PrecisionMap& precision,
                                              std::int64_t micro_batch) {
  const std::int64_t rows = options_.train.micro_batch_size;
  const auto first = plan.step * static_cast<std::uint64_t>(options_.train.batch_size) +
                     static_cast<std::uint64_t>(micro_batch * rows);
  const Batch batch = sample_batch(sampler_, first, rows, options_.sequence_length, model_.mode().device);
  const ForwardContext context{.precision = &precision,
                               .training = true,
                               .stochastic_gradients = options_.stochastic_gradients,
                               .weight_cache = &weight_cache_,
                               .seed = options_.seed,
                               .step = plan.step,
                               .micro_batch = static_cast<std::uint64_t>(micro_batch)};
  const at::Tensor loss = model_.loss(batch.inputs, batch.targets, context);
  // Not backward(): that adds into the parameters' own gradients, which passes at the same time would share.
  return {.loss = loss.detach(),
          .gradients = torch::autograd::grad({loss}, model_.parameters().trainable_tensors(), /*grad_outputs=*/{},
                                             /*retain_graph=*/false, /*create_graph=*/false, /*allow_unused=*/true)};
}

std::vector<double> StepRunner::run_micro_batches(const dist::StepPlan& plan, const PrecisionMap& precision,
                                                  std::vector<bool>& produced) {
  const std::int64_t first = comm_.rank() * local_micro_batches_;
  std::vector<at::Tensor> losses;
  // Rounds of as many passes as there are threads; gradients join the sum in order, so threads change no bit.
  for (std::int64_t begin = 0; begin < local_micro_batches_; begin += options_.threads) {
    std::vector<Pass> round(
        static_cast<std::size_t>(std::min<std::int64_t>(options_.threads, local_micro_batches_ - begin)));
    run_parallel(static_cast<std::int64_t>(round.size()), options_.threads, [&](std::int64_t i) {
      round[static_cast<std::size_t>(i)] = forward_backward(plan, precision, first + begin + i);
    });
    for (std::size_t i = 0; i < round.size(); ++i) {
      const std::span<float> leaf = accumulator_.next(/*zeroed=*/false);
      model_.parameters().scatter_gradients(round[i].gradients, leaf, produced);
      const std::int64_t micro_batch = first + begin + static_cast<std::int64_t>(i);
      if (gradient_hook_) gradient_hook_(static_cast<std::int64_t>(plan.step), micro_batch, leaf);
      accumulator_.commit();
      losses.push_back(round[i].loss);
    }
  }
  std::vector<double> values;
  for (const at::Tensor& loss : losses) values.push_back(loss.item<double>());
  return values;
}

void StepRunner::agree_on_loss(const std::vector<double>& losses, int local_signal, StepOutcome& outcome) {
  std::vector<double> mine = losses;
  mine.push_back(static_cast<double>(local_signal));
  std::vector<double> all(mine.size() * static_cast<std::size_t>(comm_.size()));
  comm_.all_gather(view(std::span<const double>(mine)), view(std::span(all)));
  double sum = 0.0, signal = 0.0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (i % mine.size() + 1 == mine.size()) {
      signal = std::max(signal, all[i]);
    } else {
      sum += all[i];
    }
  }
  outcome.loss = sum / static_cast<double>(micro_batches_);
  outcome.stop_signal = static_cast<int>(signal);
}

StepOutcome StepRunner::run(const dist::StepPlan& plan, const PrecisionMap& precision, int local_signal) {
  weight_cache_.clear();  // the weights have changed since the last step
  accumulator_.reset();
  std::vector<bool> produced;
  const std::vector<double> losses = run_micro_batches(plan, precision, produced);
  StepOutcome outcome;
  agree_on_loss(losses, local_signal, outcome);
  const std::span<float> gradient = accumulator_.result();
  reducer_.reduce_scatter(gradient);
  const dist::ShardRange shard = reducer_.shard();
  const std::span<const float> mine =
      gradient.subspan(static_cast<std::size_t>(shard.begin), static_cast<std::size_t>(shard.end - shard.begin));
  const kernels::Exec exec = exec_for(model_.parameters().tensor(0));
  const double mean = 1.0 / static_cast<double>(micro_batches_);
  outcome.grad_norm = global_norm(comm_, exec, mine, optimizer_.norm_scratch()) * mean;
  // Both numbers have the same bits on every rank, so every rank takes the same branch.
  outcome.skipped = !std::isfinite(outcome.loss) || !std::isfinite(outcome.grad_norm);
  if (outcome.skipped) return outcome;

  double scale = mean;
  outcome.clipped = options_.optim.clip_norm > 0.0 && outcome.grad_norm > options_.optim.clip_norm;
  if (outcome.clipped) scale *= options_.optim.clip_norm / outcome.grad_norm;
  const std::span<float> params = model_.parameters().trainable_flat();
  optimizer_.step(exec, params, gradient, produced, plan.learning_rate, scale);
  reducer_.all_gather(params);
  return outcome;
}

}  // namespace qat
