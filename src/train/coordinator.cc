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
  schedule.static_after = schedule.layer_offset = 0;
  return schedule;
}

// Of an update the parameters that all widths use have the scheduled rate times the mean of its training passes'
// factors, and those that a width has for itself the rate times its own.
void apply_width_factors(const LrScheduleConfig& lr, double rate, const std::vector<int>& widths, StepWork& work) {
  const auto factor = [&](int bits) { return width_factor(lr, bits); };
  if (std::all_of(widths.begin(), widths.end(), [&](int bits) { return factor(bits) == 1.0; })) return;
  for (dist::UpdatePlan& update : work.updates) {
    double sum = 0.0;
    std::int64_t passes = 0;
    for (const dist::PassPlan& pass : update.passes)
      if (pass.trains) sum += factor(work.maps.at(pass.map).weight_bits), ++passes;
    update.learning_rate = static_cast<float>(rate * (sum / static_cast<double>(passes)));
    for (const int bits : widths) {
      const auto own = static_cast<float>(rate * factor(bits));
      if (own != update.learning_rate) update.width_rates.push_back({.weight_bits = bits, .learning_rate = own});
    }
  }
}

// Of the first update, in the order in which its passes come to them.
std::vector<dist::PlannedWidths> first_maps(const StepWork& work) {
  std::vector<dist::PlannedWidths> maps;
  for (const dist::PassPlan& pass : work.updates.front().passes)
    if (std::find(maps.begin(), maps.end(), work.maps.at(pass.map)) == maps.end())
      maps.push_back(work.maps.at(pass.map));
  return maps;
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

std::optional<PrecisionSchedule::Phase> Coordinator::phase(RunPosition position) const {
  return options_.train.recipe == Recipe::kCpt ? precision_.phase(unit_of(position)) : std::nullopt;
}

StepWork Coordinator::work_at(RunPosition position) const {
  const Gpt2Config& model = options_.model;
  const double rate = lr_.at(position.step);
  const std::int64_t unit = unit_of(position), blocks = model.n_layer + (model.quantize_lm_head ? 1 : 0);
  StepWork work = plan_work(options_.train.recipe, {.quant = options_.quant,
                                                    .distill = options_.distill,
                                                    .maps = maps_,
                                                    .scheduled = precision_.at(unit),
                                                    .scheduled_blocks = precision_.block_bits(unit, blocks),
                                                    .learning_rate = static_cast<float>(rate),
                                                    .students = options_.train.students,
                                                    .student_draw = options_.train.student_draw,
                                                    .dropout = model.embd_dropout > 0.0 || model.attn_dropout > 0.0 ||
                                                               model.resid_dropout > 0.0,
                                                    .layers = static_cast<int>(model.n_layer),
                                                    .seed = options_.run.seed,
                                                    .step = position.step});
  std::vector<int> widths = quantized_weight_widths(options_.quant);
  widths.push_back(BitWidth::kFull);
  apply_width_factors(options_.lr, rate, widths, work);
  return work;
}

dist::StepPlan Coordinator::plan(RunPosition position) const {
  StepWork work = work_at(position);
  const std::int64_t done = position.step + 1;
  const auto due = [done](std::int64_t every) { return every > 0 && done % every == 0; };
  const bool last = done == options_.train.steps;
  dist::StepPlan plan{.step = static_cast<std::uint64_t>(position.step),
                      .config_hash = options_.config_hash,
                      .first_sample = static_cast<std::uint64_t>(position.samples),
                      .maps = std::move(work.maps),
                      .updates = std::move(work.updates),
                      // After the last step comes the final table, which evaluates anyway.
                      .evaluate_after = due(options_.eval.every) && !last,
                      .checkpoint_after = due(options_.checkpoint.every) || last,
                      .ahead = {}};
  // An evaluation reads values of its own.
  if (done < options_.train.steps && !plan.evaluate_after)
    plan.ahead = first_maps(work_at({.step = done, .samples = position.samples + options_.train.batch_size}));
  return plan;
}

}  // namespace qat
