#include "src/train/coordinator.h"

#include <algorithm>
#include <utility>

namespace qat {
namespace {

std::int64_t schedule_units(const TrainerOptions& options, std::int64_t windows_per_epoch, RunPosition start) {
  if (options.precision.unit == ScheduleUnit::kStep) return options.train.steps;
  const std::int64_t left = std::max<std::int64_t>(0, options.train.steps - start.step);
  const std::int64_t samples = start.samples + left * options.train.batch_size;
  return (samples + windows_per_epoch - 1) / windows_per_epoch;
}

// Recipes that train every map in every step leave the schedule its gradients' bits alone.
PrecisionScheduleConfig schedule_of(const TrainerOptions& options) {
  PrecisionScheduleConfig schedule = options.precision;
  if (options.train.recipe == Recipe::kCpt) return schedule;
  schedule.kind = ScheduleKind::kConstant;
  schedule.max_bits = options.quant.widths.front();
  schedule.static_after = 0;
  return schedule;
}

}  // namespace

Coordinator::Coordinator(const TrainerOptions& options, std::int64_t windows_per_epoch, RunPosition start,
                         std::vector<ConfiguredMap> maps)
    : options_(options),
      maps_(std::move(maps)),
      windows_per_epoch_(windows_per_epoch),
      precision_(schedule_of(options), options.quant.widths, schedule_units(options, windows_per_epoch, start),
                 options.train.recipe == Recipe::kCpt ? choices_of(maps_) : std::vector<PrecisionChoice>(),
                 options.run.seed),
      lr_(options.lr, options.train.steps) {}

std::int64_t Coordinator::unit_of(RunPosition position) const {
  return options_.precision.unit == ScheduleUnit::kStep ? position.step : position.samples / windows_per_epoch_;
}

dist::StepPlan Coordinator::plan(RunPosition position) const {
  const Gpt2Config& model = options_.model;
  StepWork work = plan_work(options_.train.recipe, {.quant = options_.quant,
                                                    .distill = options_.distill,
                                                    .maps = maps_,
                                                    .scheduled = precision_.at(unit_of(position)),
                                                    .learning_rate = static_cast<float>(lr_.at(position.step)),
                                                    .students = options_.train.students,
                                                    .dropout = model.embd_dropout > 0.0 || model.attn_dropout > 0.0 ||
                                                               model.resid_dropout > 0.0,
                                                    .layers = static_cast<int>(model.n_layer),
                                                    .seed = options_.run.seed,
                                                    .step = position.step});
  const std::int64_t done = position.step + 1;
  const auto due = [done](std::int64_t every) { return every > 0 && done % every == 0; };
  const bool last = done == options_.train.steps;
  return {.step = static_cast<std::uint64_t>(position.step),
          .config_hash = options_.config_hash,
          .first_sample = static_cast<std::uint64_t>(position.samples),
          .maps = std::move(work.maps),
          .updates = std::move(work.updates),
          // After the last step comes the final table, which evaluates anyway.
          .evaluate_after = due(options_.eval.every) && !last,
          .checkpoint_after = due(options_.checkpoint.every) || last,
          .stop_after = last};
}

}  // namespace qat
