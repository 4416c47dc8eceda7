#include "src/train/step_runner.h"

#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <utility>

#include "dist/comm/agree.h"
#include "dist/grad/norm_block.h"
#include "kernels/common/error.h"
#include "kernels/common/trace_range.h"
#include "src/quant/gemm_path.h"
#include "src/quant/torch_view.h"
#include "src/train/gradient_noise.h"

namespace qat {
namespace {

OptimLayout optim_layout(const Gpt2& model, int ranks, const OptimConfig& config) {
  const ParameterStore& store = model.parameters();
  OptimLayout layout{.ranks = ranks, .chunks = model.chunks()};
  for (const FlatGroup& group : store.groups()) layout.groups.push_back({.layout = group.layout});
  for (const ParameterInfo& info : store.infos())
    if (info.trainable)
      layout.tensors.push_back({.group = info.group_index,
                                .index = info.layout_index,
                                .decay = info.decay,
                                .learning_rate_factor = is_trained_range(info.name) ? config.range_lr_factor : 1.0,
                                .chunk = info.group.chunk,
                                .leads = info.group.kind == GroupKind::kTied && model.trains_table_of_first_stage(),
                                .width = info.group.kind == GroupKind::kWidth ? info.group.bits : 0});
  return layout;
}

CommConfig comm_of(const StepRunnerOptions& options, const dist::Grid& grid) {
  CommConfig comm = options.comm;
  comm.overlap = exchanges_early(comm, grid.stages(), options.train.on_out_of_memory != OnOutOfMemory::kStop);
  return comm;
}

kernels::Exec exec_of(const Gpt2& model) { return exec_for(model.parameters().tensor(0)); }

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

// The losses that a pass has, in the order in which they are kept.
std::vector<double PassLosses::*> loss_parts(const dist::PassPlan& pass) {
  std::vector<double PassLosses::*> parts;
  if (pass.trains) parts.push_back(&PassLosses::cross_entropy);
  if (pass.loss.distillation > 0.0) parts.push_back(&PassLosses::distillation);
  if (!pass.feature_layers.empty()) parts.push_back(&PassLosses::features);
  return parts;
}

double weighted(const dist::LossWeights& weights, const PassLosses& losses) {
  double sum = weights.cross_entropy * losses.cross_entropy;
  if (weights.distillation > 0.0) sum += weights.distillation * losses.distillation;
  if (weights.features > 0.0) sum += weights.features * losses.features;
  return sum;
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

StepRunner::StepRunner(Gpt2& model, const SampleSource& sampler, const dist::Grid& grid,
                       const StepRunnerOptions& options)
    : model_(model),
      sampler_(sampler),
      grid_(grid),
      options_(options),
      gradients_(model, grid.data(),
                 {.comm = comm_of(options, grid),
                  .accumulate = options.train.accumulate,
                  .seed = options.seed,
                  .places = options.places,
                  .early = options.early}),
      optimizer_(optim_layout(model, grid.data_size(), options.optim), grid.data_rank(), options.optim,
                 *flat_memory_of(model)),
      global_norm_(optimizer_.layout(), *flat_memory_of(model)),
      weights_as_codes_(options.comm.weights == WeightsName::kCodes && grid.data_size() > 1 &&
                        scales_by_row(model.quant())),
      weight_staging_(flat_memory_of(model)),
      weight_waits_(model.mode().device),
      timer_(model.mode().device) {
  QAT_CHECK(grid.stages() == 1 || options.threads == 1, "stages take one micro-batch at a time");
  QAT_CHECK(model.stage().embeds == grid.is_first_stage() && model.stage().heads == grid.is_last_stage(),
            "the model is this rank's stage");
  model.parameters().shard({.rank = grid.data_rank(), .ranks = grid.data_size()});
  if (weights_as_codes_) model.parameters().reserve_codes(grid.data(), weight_staging_);
  set_micro_batch_size(options.train.micro_batch_size);
  sends_ahead_ = options.comm.overlap && grid.stages() == 1 && grid.data_size() > 1;
  if (!sends_ahead_ || options.threads > 1) return;
  std::optional<StreamRef> beside = gradients_.beside();
  if (options.beside_on_cpus && !model.mode().is_cuda()) beside = StreamRef{};
  sends_beside_ = beside.has_value();
  model.parameters().send_beside(beside);
}

StepRunner::~StepRunner() {
  model_.parameters().set_around_wait({});
  model_.parameters().send_beside(std::nullopt);
}

void StepRunner::set_micro_batch_size(std::int64_t sequences) {
  QAT_CHECK(sequences > 0 && options_.train.batch_size % (sequences * grid_.data_size()) == 0,
            "the global batch divides into equal micro-batches on every rank");
  options_.train.micro_batch_size = sequences;
  micro_batches_ = options_.train.batch_size / sequences;
  local_micro_batches_ = micro_batches_ / grid_.data_size();
  loader_.emplace(sampler_, sequences, options_.sequence_length, model_.mode().device);
  gradients_.set_micro_batches(local_micro_batches_);
  pace_ = dist::Pace();
}

bool StepRunner::take_refused() {
  return most_of(optimizer_.take_refused(exec_of(model_)) ? 1 : 0, grid_.world()) != 0;
}

void StepRunner::agree_on_loss(const Step& step, const at::Tensor& losses, UpdateOutcome& update,
                               StepOutcome& outcome) {
  const std::vector<dist::PassPlan>& passes = update_of(step).passes;
  const auto of_pass = static_cast<std::size_t>(local_micro_batches_);
  std::size_t count = 0;
  for (const dist::PassPlan& pass : passes) count += loss_parts(pass).size() * of_pass;
  std::vector<double> mine(count);
  if (losses.defined()) std::copy_n(losses.const_data_ptr<double>(), losses.numel(), mine.begin());
  const bool refused = optimizer_.take_refused(exec_of(model_));
  const auto flag = [](bool value) { return value ? 1.0 : 0.0; };
  // What a rank says beside its losses.
  const TransferBytes sent = std::exchange(transfer_bytes_, {});
  const std::array words = {flag(step.unreadable.has_value()),
                            flag(step.out_of_memory),
                            flag(refused),
                            static_cast<double>(step.poll.requested()),
                            timer_.seconds(),
                            static_cast<double>(sent.sent),
                            static_cast<double>(sent.bf16)};
  mine.insert(mine.end(), words.begin(), words.end());
  const auto ranks = static_cast<std::size_t>(grid_.world().size());
  std::vector<double> all(mine.size() * ranks);
  grid_.world().all_gather(view(std::span<const double>(mine)), view(std::span(all)));
  update.losses.assign(passes.size(), {});
  outcome.own_seconds.resize(ranks);
  double stop = 0.0, unreadable = 0.0;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const std::span<const double> of_rank(all.data() + rank * mine.size(), mine.size());
    const std::span<const double> said = of_rank.last(words.size());
    const double* next = of_rank.data();
    // The last stage of each replica has its losses; ranks are in order of replicas, and so are micro-batches.
    const bool has_losses = static_cast<int>(rank) % grid_.stages() == grid_.last_stage();
    for (std::size_t i = 0; has_losses && i < passes.size(); ++i) {
      const auto parts = loss_parts(passes[i]);
      for (std::size_t m = 0; m < of_pass; ++m)
        for (double PassLosses::*part : parts) update.losses[i].*part += *next++;
    }
    unreadable = std::max(unreadable, said[0]);
    if (said[1] != 0.0) outcome.out_of_memory.push_back(static_cast<int>(rank));
    outcome.refused = outcome.refused || said[2] != 0.0;
    stop = std::max(stop, said[3]);
    outcome.own_seconds[rank] += said[4];
    outcome.transfers.sent += static_cast<std::int64_t>(said[5]);
    outcome.transfers.bf16 += static_cast<std::int64_t>(said[6]);
  }
  if (unreadable > 0.0)
    dist::on_every_rank(grid_.world(), "training tokens", [&] {
      if (step.unreadable) throw Error(*step.unreadable);
    });
  double cross_entropies = 0.0;
  int training = 0;
  bool taught = false;
  for (std::size_t i = 0; i < passes.size(); ++i) {
    if (!passes[i].trains) continue;
    PassLosses& losses = update.losses[i];
    for (double PassLosses::*part : loss_parts(passes[i])) losses.*part /= static_cast<double>(micro_batches_);
    const double own = weighted(passes[i].loss, losses);
    update.loss = training == 0 ? own : update.loss + own;
    cross_entropies += losses.cross_entropy;
    taught = taught || !passes[i].teachers.empty();
    ++training;
  }
  update.judged = taught ? cross_entropies / training : update.loss;
  outcome.stop = std::max(outcome.stop, static_cast<int>(stop));
}

void StepRunner::start_exchange(const Step& step) {
  std::vector<std::int64_t> passes(model_.parameters().groups().size());
  for (const dist::PassPlan& pass : update_of(step).passes)
    for (std::size_t g = 0; g < passes.size(); ++g)
      if (pass.trains && step.used[pass.map][g]) passes[g] += local_micro_batches_;
  gradients_.start(step.plan.step, step.update, passes);
}

StepOutcome StepRunner::run(const dist::StepPlan& plan, std::span<const PrecisionMap> maps, dist::StopPoll& poll,
                            const SpikeTest& is_spike, const StepOutcome& so_far, std::span<const PrecisionMap> ahead) {
  const TraceRange range("step");
  dist::check(plan);
  QAT_CHECK(maps.size() == plan.maps.size() && (ahead.empty() || ahead.size() == plan.ahead.size()),
            "a precision map for each of the plan's");
  if (most_threads_ == 0) most_threads_ = most_of(options_.threads, grid_.world());
  StepOutcome outcome = so_far;
  outcome.abandoned = false;
  outcome.out_of_memory.clear();
  poll.start();
  // What an evaluation between steps waits for is not counted.
  model_.parameters().set_around_wait([this](const auto& wait) { weight_waits_.around(wait); });
  std::vector<std::vector<bool>> used;
  for (const PrecisionMap& map : maps) used.push_back(model_.groups_used(map));
  for (std::size_t update = so_far.updates.size(); update < plan.updates.size(); ++update) {
    Step step{.plan = plan, .update = update, .maps = maps, .used = used, .ahead = ahead, .poll = poll};
    if (run_update(step, is_spike, outcome)) continue;
    outcome.abandoned = true;
    break;
  }
  model_.parameters().set_around_wait({});
  return outcome;
}

bool StepRunner::run_update(Step& step, const SpikeTest& is_spike, StepOutcome& outcome) {
  start_exchange(step);
  if (range_sink_ != nullptr) range_sink_->begin_update();
  timer_.start();
  run_passes(step);
  if (step.stop != 0) {
    outcome.stop = step.stop;
    return false;
  }
  if (!step.has_losses()) gradients_.give_up();  // zeros: the other ranks' collectives need a partner
  const bool has_losses = step.has_losses() && grid_.is_last_stage();
  const at::Tensor losses = has_losses ? on_host(step.losses) : at::Tensor();
  timer_.stop();
  std::vector<dist::BucketShards> gradient;
  {
    const TraceRange exchange("gradient exchange");
    gradient = gradients_.finish();
  }
  const kernels::Exec exec = exec_of(model_);
  UpdateOutcome update;
  {
    const TraceRange norm("gradient norm");
    // Waits for the device, for the first time in the update; the losses are there when the norm is.
    const dist::WaitMark wait(exec.device == Device::kCuda ? options_.board : nullptr, dist::WaitFor::kDevice);
    update.grad_norm = global_norm_(grid_, exec, gradient) * (1.0 / static_cast<double>(micro_batches_));
  }
  outcome.wire.add(gradients_.report());
  outcome.wire.weight_bytes += std::exchange(weight_bytes_, 0);
  outcome.wire.weight_seconds += weight_waits_.take();
  if (std::optional<double> error = gradients_.take_error()) {
    // Of this stage; all of them judge the largest.
    if (grid_.stages() > 1) grid_.pipeline().all_reduce(view(std::span(&*error, 1)), dist::ReduceOp::kMax);
    outcome.wire_error = error;
  }
  agree_on_loss(step, losses, update, outcome);
  if (!outcome.out_of_memory.empty()) return false;
  if (loss_hook_) {
    const double agreed = update.loss;
    update.loss = loss_hook_(static_cast<std::int64_t>(step.plan.step), agreed);
    if (update.judged == agreed) update.judged = update.loss;
  }
  // Both numbers have the same bits on every rank, so every rank takes the same branch.
  update.spike = is_spike && std::isfinite(update.judged) && is_spike(update_of(step), update.judged);
  update.skipped = update.spike || !std::isfinite(update.loss) || !std::isfinite(update.grad_norm);
  if (!update.skipped) {
    apply(step, gradient, update);
    if (range_sink_ != nullptr) range_sink_->count_update();
  }
  outcome.add(std::move(update));
  send_ahead(step);
  return true;
}

std::vector<double> StepRunner::gradient_norms() const {
  std::vector<double> norms;
  for (const double squares : global_norm_.tensor_squares())
    norms.push_back(std::sqrt(squares) / static_cast<double>(micro_batches_));
  return norms;
}

void StepRunner::share_parameters() {
  ParameterStore& store = model_.parameters();
  for (int group = 0; std::cmp_less(group, store.groups().size()); ++group) {
    store.updated(group);
    bring_back(group);
  }
  renew_copy_of_table();
}

void StepRunner::bring_back(int group) {
  const FlatGroup& updated = model_.parameters().groups()[static_cast<std::size_t>(group)];
  const bool waits = updated.is_sharded() || (weights_as_codes_ && updated.key.kind == GroupKind::kBase);
  if (waits) return;
  std::vector<bool> only(model_.parameters().groups().size());
  only[static_cast<std::size_t>(group)] = true;
  send(only, {});
}

bool StepRunner::clips_by_width() const {
  if (options_.optim.clip_scope != ClipScope::kAuto) return options_.optim.clip_scope == ClipScope::kWidth;
  const Recipe recipe = options_.train.recipe;
  return recipe == Recipe::kSp || recipe == Recipe::kSpnet || recipe == Recipe::kInstantnet;
}

double StepRunner::share_of_width(const Step& step, int bits) const {
  double all = 0.0, its = 0.0;
  for (const dist::PassPlan& pass : update_of(step).passes) {
    if (!pass.trains) continue;
    all += 1.0;
    its += step.maps[pass.map].uses_weight_bits(bits) ? 1.0 : 0.0;
  }
  return its / all;
}

std::vector<double> StepRunner::scales_of(const Step& step, UpdateOutcome& update) const {
  const double mean = 1.0 / static_cast<double>(micro_batches_), most = options_.optim.clip_norm;
  const auto scale_at = [&](double norm) {
    if (most <= 0.0 || !(norm > most)) return mean;
    update.clipped = true;
    return mean * (most / norm);
  };
  const std::vector<FlatGroup>& groups = model_.parameters().groups();
  if (!clips_by_width()) return std::vector<double>(groups.size(), scale_at(update.grad_norm));
  // Of all widths, whether this stage has such groups or not: `clipped` is the same on all.
  std::vector<double> of_width;
  for (const double squares : global_norm_.width_squares()) {
    const auto bits = static_cast<int>(of_width.size());
    // Passes have equal shares of the loss: the gradient of its own passes' mean is so much larger.
    const double share = bits == 0 || squares == 0.0 ? 1.0 : share_of_width(step, bits);
    of_width.push_back(scale_at(std::sqrt(squares) * mean / share));
  }
  std::vector<double> scales;
  for (const FlatGroup& group : groups)
    scales.push_back(of_width[static_cast<std::size_t>(group.key.kind == GroupKind::kWidth ? group.key.bits : 0)]);
  return scales;
}

void StepRunner::add_noise(const Step& step, std::span<const double> scales) {
  if (options_.optim.noise == 0.0) return;
  std::vector<ShardValues> gradient = gradients_.own_sums();
  add_gradient_noise(exec_of(model_),
                     {.config = options_.optim,
                      .store = model_.parameters(),
                      .optimizer = optimizer_,
                      .rank = grid_.data_rank(),
                      .plan = step.plan,
                      .update = step.update,
                      .produced = step.produced,
                      .squares = global_norm_.tensor_squares(),
                      .scales = scales,
                      .seed = options_.seed},
                     gradient);
}

void StepRunner::apply(Step& step, const std::vector<dist::BucketShards>& gradient, UpdateOutcome& update) {
  if (before_update_) before_update_();
  const TraceRange range("update");
  const std::vector<double> scales = scales_of(step, update);
  ParameterStore& store = model_.parameters();
  std::vector<ShardValues> own;
  for (std::size_t g = 0; g < gradient.size(); ++g) own.push_back(store.own_shards(static_cast<int>(g)));
  gradients_.commit();
  add_noise(step, scales);
  std::vector<float> rates;
  for (const FlatGroup& group : store.groups())
    rates.push_back(group.key.kind == GroupKind::kWidth ? dist::rate_of(update_of(step), group.key.bits)
                                                        : update_of(step).learning_rate);
  // A group's new values may travel while the next one is updated.
  optimizer_.step(exec_of(model_), own, gradient, step.produced, rates, scales, [&](std::size_t group) {
    store.updated(static_cast<int>(group));
    bring_back(static_cast<int>(group));
  });
  renew_copy_of_table();
}

}  // namespace qat
