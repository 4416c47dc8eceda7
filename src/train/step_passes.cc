// The passes of an update over this rank's micro-batches: what they learn, from whom, and where their gradients go.
#include <algorithm>
#include <set>
#include <utility>

#include "kernels/common/error.h"
#include "src/quant/torch_errors.h"
#include "src/quant/torch_parallel.h"
#include "src/quant/torch_view.h"
#include "src/train/step_runner.h"

namespace qat {

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

ForwardContext StepRunner::context_of(const Step& step, const Pass& pass, std::int64_t micro_batch,
                                      GradientSink* sink) {
  return {.precision = &pass.precision,
          .training = pass.plan.trains,
          .stochastic_gradients = options_.stochastic_gradients,
          .weight_cache = &weight_cache_,
          .gradient_sink = sink,
          .range_sink = pass.plan.trains ? range_sink_ : nullptr,
          .seed = options_.seed,
          .step = step.plan.step,
          .micro_batch = static_cast<std::uint64_t>(micro_batch),
          .pass = pass.number};
}

Lesson StepRunner::lesson_of(const Step& step, const Pass& pass, std::size_t micro_batch, int chunk) const {
  const dist::PassPlan& plan = pass.plan;
  Lesson lesson{.distillation = {.weight = plan.loss.distillation, .temperature = plan.loss.temperature},
                .feature_weight = plan.loss.features};
  for (const std::uint32_t teacher : plan.teachers) {
    const PassTeaching& taught = step.taught.at(teacher);
    if (plan.loss.distillation > 0.0 && model_.heads(chunk))
      lesson.distillation.teachers.push_back(taught.head(taught.of_micro_batch.at(micro_batch).output));
  }
  const std::set<std::uint32_t> layers(plan.feature_layers.begin(), plan.feature_layers.end());
  for (const std::uint32_t layer : layers)
    if (model_.has_states(chunk, layer))
      lesson.features[layer] = step.taught.at(plan.teachers.front()).of_micro_batch.at(micro_batch).features.at(layer);
  lesson.feature_count = std::ssize(layers);
  return lesson;
}

LossScale StepRunner::scale_of(const Pass& pass) const {
  // The valid targets of the global batch; the sum over its micro-batches is divided by their number later. Without
  // masked targets this is a micro-batch's own number of them, exactly.
  const auto valid = static_cast<double>(sampler_.valid_targets(options_.train.batch_size));
  return {.tokens = valid / static_cast<double>(micro_batches_), .weight = pass.plan.loss.cross_entropy};
}

LossAndGradients StepRunner::forward_backward(const Step& step, const Pass& pass, std::int64_t micro_batch,
                                              const ModelInput& input, const at::Tensor& targets, GradientSink* sink) {
  const std::size_t here = local(micro_batch);
  Teaching* teaching = pass.teaching != nullptr ? &pass.teaching->of_micro_batch[here] : nullptr;
  return model_.loss_and_gradients(input, targets, context_of(step, pass, micro_batch, sink), scale_of(pass),
                                   lesson_of(step, pass, here, input.chunk), teaching);
}

void StepRunner::teach(const Step& step, const Pass& pass, std::int64_t micro_batch, const Batch& batch) {
  QAT_CHECK(pass.teaching != nullptr, "a pass that does not train has somebody who learns from it");
  (void)model_.teach({.tokens = batch.inputs}, context_of(step, pass, micro_batch, /*sink=*/nullptr),
                     pass.teaching->of_micro_batch[local(micro_batch)]);
  grid_.world().beat();
}

PassGradients StepRunner::next_gradients(const Step& step, const Pass& pass, std::int64_t micro_batch, int chunk,
                                         bool of_table) {
  PassGradients::Hook hook;
  if (gradient_hook_)
    hook = [this, at = static_cast<std::int64_t>(step.plan.step), micro_batch](int id, const at::Tensor& gradient) {
      gradient_hook_(at, micro_batch, id, gradient);
    };
  std::vector<bool> used = step.used[pass.plan.map];
  const std::vector<FlatGroup>& groups = model_.parameters().groups();
  const bool table_apart = model_.trains_table_of_first_stage();
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const bool table = table_apart && groups[g].key.kind == GroupKind::kTied;
    if (groups[g].key.chunk != chunk || table != of_table) used[g] = false;
  }
  return {model_.parameters(), gradients_.syncs(), used, std::move(hook)};
}

void StepRunner::join(const LossAndGradients& pass, PassGradients& gradients, Step& step) {
  gradients.finish(pass.gradients.parameters, step.produced);
  grid_.world().beat();
  for (const at::Tensor* part : {&pass.loss, &pass.distillation, &pass.features})
    if (part->defined()) step.losses.push_back(*part);
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
  const std::int64_t first = first_micro_batch();
  for (std::int64_t i = first; i < first + local_micro_batches_; ++i) {
    const bool last = i + 1 == first + local_micro_batches_;
    attempt(step, [&] {
      const auto read = [&] { return batch_or_zeros(step, [&] { return loader_->take(first_sample(step.plan, i)); }); };
      if (last && pass.ends_update) gradients_.allow_early();
      if (pass.plan.trains) {
        PassGradients gradients =
            next_gradients(step, pass, i);  // one pass may leave its gradients where they are wanted
        const Batch batch = read();
        join(forward_backward(step, pass, i, {.tokens = batch.inputs}, batch.targets, &gradients), gradients, step);
      } else {
        teach(step, pass, i, read());
      }
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
    if (pass.plan.trains)
      round[static_cast<std::size_t>(i)] =
          forward_backward(step, pass, first + i, {.tokens = batch.inputs}, batch.targets, /*sink=*/nullptr);
    else
      teach(step, pass, first + i, batch);
  });
  if (!pass.plan.trains) return;
  for (std::int64_t i = 0; i < count; ++i) {
    PassGradients gradients = next_gradients(step, pass, first + i);
    join(round[static_cast<std::size_t>(i)], gradients, step);
  }
}

void StepRunner::run_side_by_side(Step& step, const Pass& pass) {
  const std::int64_t first = first_micro_batch();
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

StepRunner::PassTeaching* StepRunner::prepare_teaching(Step& step, std::size_t pass) {
  const std::vector<dist::PassPlan>& passes = update_of(step).passes;
  bool wanted = false;
  Teaching empty;
  for (const dist::PassPlan& student : passes) {
    if (std::find(student.teachers.begin(), student.teachers.end(), pass) == student.teachers.end()) continue;
    wanted = true;
    if (student.teachers.front() != pass) continue;
    for (const std::uint32_t layer : student.feature_layers) empty.features[layer] = at::Tensor();
  }
  if (!wanted) return nullptr;
  PassTeaching& teaching = step.taught.at(pass);
  teaching.of_micro_batch.assign(static_cast<std::size_t>(local_micro_batches_), empty);
  return &teaching;
}

void StepRunner::drop_taught(Step& step, const dist::UpdatePlan& update, std::size_t pass) {
  for (std::size_t teacher = 0; teacher <= pass; ++teacher) {
    const auto learns = [&](const dist::PassPlan& student) {
      return std::find(student.teachers.begin(), student.teachers.end(), teacher) != student.teachers.end();
    };
    if (std::none_of(update.passes.begin() + static_cast<std::ptrdiff_t>(pass) + 1, update.passes.end(), learns))
      step.taught[teacher] = {};
  }
}

std::vector<const PrecisionMap*> StepRunner::maps_of(const Step& step, std::size_t update) {
  std::vector<const PrecisionMap*> maps;
  for (const dist::PassPlan& pass : step.plan.updates[update].passes)
    if (std::find(maps.begin(), maps.end(), &step.maps[pass.map]) == maps.end()) maps.push_back(&step.maps[pass.map]);
  return maps;
}

std::vector<const PrecisionMap*> StepRunner::maps_after(const Step& step) {
  if (step.update + 1 < step.plan.updates.size()) return maps_of(step, step.update + 1);
  std::vector<const PrecisionMap*> maps;
  for (const PrecisionMap& map : step.ahead) maps.push_back(&map);
  return maps;
}

std::vector<bool> StepRunner::groups_beside(const Step& step, std::size_t pass) const {
  const std::vector<FlatGroup>& groups = model_.parameters().groups();
  std::vector<bool> beside(groups.size());
  if (!sends_beside_) return beside;
  const std::vector<dist::PassPlan>& passes = update_of(step).passes;
  const auto next = std::find_if(passes.begin() + static_cast<std::ptrdiff_t>(pass), passes.end(),
                                 [&](const dist::PassPlan& one) { return one.map != passes[pass].map; });
  if (next != passes.end()) {
    beside = step.used[next->map];
  } else if (const auto maps = maps_after(step); !maps.empty()) {
    beside = model_.groups_used(*maps.front());
    for (const dist::PassPlan& one : passes)
      for (std::size_t g = 0; g < groups.size(); ++g)
        if (one.trains && step.used[one.map][g]) beside[g] = false;
  }
  for (std::size_t g = 0; g < groups.size(); ++g)
    beside[g] = beside[g] && groups[g].is_sharded() && !step.used[passes[pass].map][g];
  return beside;
}

// Which values are sent, and when, follows from the plan, from what is held, and from what ranks have agreed on: that
// an update is given up or skipped, that a step ends early, that there is room. None of it is known to one rank alone,
// and a rank whose memory did not suffice for a pass comes here for the next one all the same. So all ranks send the
// same, in the same order, whatever happens; and on one stream, behind the gradients of the update before and in front
// of those that this one's last pass will leave.
bool StepRunner::hold(Step& step, std::size_t pass) {
  const ParameterStore& store = model_.parameters();
  const std::vector<bool>& groups = step.used[update_of(step).passes[pass].map];
  std::vector<bool> beside = groups_beside(step, pass), kept = groups;
  for (std::size_t g = 0; g < kept.size(); ++g) kept[g] = kept[g] || beside[g];
  store.release_all_but(kept);
  // Stages may differ in whether they need room, and wait for each other all the same.
  if (options_.train.on_out_of_memory != OnOutOfMemory::kStop && (grid_.stages() > 1 || store.needs_room(groups))) {
    attempt(step, [&] { store.make_room(groups); });
    timer_.pause();
    std::vector<std::int32_t> missing = {step.out_of_memory ? 1 : 0};
    grid_.world().all_reduce(view(std::span(missing)), dist::ReduceOp::kMax);
    timer_.resume();
    step.given_up = missing[0] != 0;
  }
  if (step.given_up) return false;
  timer_.pause();
  store.make_room(groups);
  std::vector<const PrecisionMap*> maps = maps_of(step, step.update);
  std::swap(maps.front(), *std::find(maps.begin(), maps.end(), &step.maps[update_of(step).passes[pass].map]));
  send(groups, code_bits(maps));
  if (make_room(beside))
    send(beside, {});
  else
    store.release_all_but(groups);
  timer_.resume();
  return true;
}

bool StepRunner::make_room(const std::vector<bool>& groups) const {
  const ParameterStore& store = model_.parameters();
  if (!store.needs_room(groups)) return true;
  std::vector<std::int32_t> missing = {0};
  try {
    store.make_room(groups);
  } catch (const std::exception& error) {
    if (!is_out_of_memory(error)) throw;
    missing[0] = 1;
  }
  grid_.world().all_reduce(view(std::span(missing)), dist::ReduceOp::kMax);
  return missing[0] == 0;
}

void StepRunner::send_ahead(const Step& step) {
  const std::vector<const PrecisionMap*> maps = maps_after(step);
  if (!sends_ahead_ || maps.empty()) return;
  const ParameterStore& store = model_.parameters();
  const std::vector<bool> groups = model_.groups_used(*maps.front());
  store.release_all_but(groups);
  if (!make_room(groups)) return store.release_all_but(std::vector<bool>(groups.size()));  // hold() tries again
  send(groups, code_bits(maps));
}

void StepRunner::send(const std::vector<bool>& groups, std::span<const int> code_bits) {
  const auto values = [&] {
    weight_bytes_ += model_.parameters().send(groups, grid_.data(), {.bits = code_bits, .staging = &weight_staging_});
  };
  // What goes beside computing is waited for where it is read.
  sends_beside_ ? values() : weight_waits_.around(values);
}

std::vector<int> StepRunner::code_bits(std::span<const PrecisionMap* const> maps) const {
  constexpr std::size_t kMostMaps = 3;  // at a byte a code, of four that fp32 takes
  if (!weights_as_codes_ || maps.size() > kMostMaps) return {};
  return model_.code_bits(*maps.front());
}

void StepRunner::run_passes(Step& step) {
  const std::vector<dist::UpdatePlan>& updates = step.plan.updates;
  const std::vector<dist::PassPlan>& passes = update_of(step).passes;
  std::uint64_t number = 0;
  for (std::size_t before = 0; before < step.update; ++before) number += updates[before].passes.size();
  step.taught.resize(passes.size());
  for (std::size_t i = 0; i < passes.size() && step.stop == 0; ++i) {
    const bool ends_update = i + 1 == passes.size();
    const Pass pass{.plan = passes[i],
                    .precision = step.maps[passes[i].map],
                    .number = number + i,
                    .teaching = prepare_teaching(step, i),
                    .ends_update = ends_update,
                    .ends_step = ends_update && step.update + 1 == updates.size()};
    // The weights have changed since the last update; at another width they are made ready anew, in the same memory.
    if (i == 0 || passes[i].map != passes[i - 1].map) {
      weight_cache_.clear();
      if (!hold(step, i)) return;
    }
    if (grid_.stages() > 1)
      run_through_stages(step, pass);
    else
      options_.threads == 1 ? run_in_turn(step, pass) : run_side_by_side(step, pass);
    if (pass.teaching != nullptr && grid_.is_last_stage())
      attempt(step, [&] { pass.teaching->head = model_.teacher_head(context_of(step, pass, 0, nullptr)); });
    drop_taught(step, update_of(step), i);
  }
}

}  // namespace qat
