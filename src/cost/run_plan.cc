#include "src/cost/run_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "src/cost/plan_changes.h"
#include "src/cost/planned_wire.h"
#include "src/cost/stage_plan.h"
#include "src/memory/pass_memory.h"
#include "src/schedule/precision_schedule.h"
#include "src/train/configured_maps.h"
#include "src/train/recipe.h"

namespace qat {
namespace {

constexpr std::int64_t kFp32 = 4;

std::vector<PlannedStage> planned_stages(const RunConfig& config, const PlanMachine& machine) {
  const RankPlace& place = machine.place;
  const int stages = config.parallel.pipeline;
  const RankLayout layout = layout_of(config, place);
  const std::int64_t micro_batches = config.train.batch_size / (config.train.micro_batch_size * layout.ranks);
  ModelTimes times;
  dist::StageCut cut = {0};
  std::vector<double> shares = {1.0};
  if (stages > 1) {
    times = run_times(config, place.cuda, place.rates);
    cut = run_cut(config, times);
    shares = stage_shares(config, times, cut);
  }
  std::vector<PlannedStage> all;
  for (int stage = 0; stage < stages; ++stage) {
    RankLayout of_stage = layout;
    if (stages > 1) of_stage.part = stage_part(config, cut, stage, micro_batches);
    all.push_back({.part = of_stage.part,
                   .parameters = count_parameters(config.model, config.lora, config.quant, of_stage.part),
                   .time_share = shares[static_cast<std::size_t>(stage)],
                   .memory = device_memory_needed(config, of_stage)});
  }
  return all;
}

// Every width that a pass may be at.
std::set<int> visited_widths(const RunConfig& config) {
  std::set<int> widths;
  const auto add = [&](const std::vector<int>& more) { widths.insert(more.begin(), more.end()); };
  if (config.quant.maps.empty())
    add(recipe_widths(config.train.recipe, config.precision, config.distill, config.quant.widths));
  for (const std::string& map : config.quant.maps) add(weight_widths(parse_bitmap(map)));
  const Evaluated evaluated = evaluated_by(config.eval, config.quant);
  add(evaluated.widths);
  return widths;
}

std::vector<PlannedWidth> planned_widths(const RunConfig& config, const RunPlan& plan) {
  const std::map<int, std::int64_t> own = width_parameters(config.model, config.lora, config.quant);
  std::vector<PlannedWidth> all;
  for (const int bits : visited_widths(config)) {
    const std::string name = std::to_string(bits);
    const auto number = [&](const std::map<std::string, double>& of) { return of.contains(name) ? of.at(name) : 0.0; };
    PlannedWidth& width = all.emplace_back(
        PlannedWidth{.bits = bits, .passes = number(plan.step.passes), .pass_s = number(plan.step.pass_s)});
    if (const auto found = own.find(bits); found != own.end()) {
      const std::int64_t bytes = found->second * kFp32;
      width.own_bytes = bytes;
      width.kept_bytes = bytes / plan.replicas;
      width.moments_bytes = 2 * bytes / plan.replicas;
    }
    width.prepared_bytes = prepared_weight_bytes(training_pass(config, plan.machine.place.cuda, bits));
  }
  return all;
}

// Parameters, AdamW's moments of those that are trained, and what codes did not carry yet.
std::int64_t checkpoint_size(const RunConfig& config, const ParameterCount& count, int ranks) {
  const std::int64_t elems = 3 * count.trained + count.frozen;
  const bool residuals = config.comm.wire != WireFormatName::kFp32 && config.comm.error_feedback && ranks > 1;
  return kFp32 * (elems + (residuals ? ranks * count.trained : 0));
}

// How many segments come again and again until the end; all of them: they do not.
std::size_t period_of(const std::vector<ScheduleSegment>& segments) {
  const auto same = [](const ScheduleSegment& a, const ScheduleSegment& b) {
    return a.count == b.count && a.bits == b.bits;
  };
  for (std::size_t period = 1; period < segments.size(); ++period)
    if (segments.size() % period == 0 &&
        std::equal(segments.begin() + static_cast<std::ptrdiff_t>(period), segments.end(), segments.begin(), same))
      return period;
  return segments.size();
}

std::string schedule_line(const RunConfig& config, const PlanData& data) {
  const bool maps = !config.quant.maps.empty();
  std::vector<std::string> names = config.quant.maps;
  if (!maps)
    for (const int bits : config.quant.widths) names.push_back(std::to_string(bits));
  const std::string of = fmt::format("{} {}", maps ? "maps" : "widths", fmt::join(names, ", "));
  switch (config.train.recipe) {
    case Recipe::kCpt:
      break;
    case Recipe::kSpnet:
    case Recipe::kInstantnet:
      return "every step: one update of all " + of;
    case Recipe::kPerMap:
      return "every step: an update for each of the " + of;
    case Recipe::kSp:
      return fmt::format("every step: one update of {} drawn from the {}{}", config.train.students, of,
                         config.train.student_draw == StudentDraw::kSandwich ? ", the narrowest in all" : "");
  }
  const bool epochs = config.precision.unit == ScheduleUnit::kEpoch;
  const std::int64_t samples = config.train.steps * config.train.batch_size;
  const std::int64_t units =
      epochs ? (samples + data.windows_per_epoch - 1) / data.windows_per_epoch : config.train.steps;
  const std::vector<ConfiguredMap> configured =
      configured_maps(config.model, config.quant, config.precision.most_gradient_bits());
  const PrecisionSchedule schedule(config.precision, config.quant.widths, units, choices_of(configured),
                                   config.run.seed);
  const std::vector<ScheduleSegment> segments = schedule.segments(0, units);
  constexpr std::size_t kMost = 40;
  const std::size_t cycle = period_of(segments);
  std::string line = cycle < segments.size() ? fmt::format("{} times ", segments.size() / cycle) : "";
  for (std::size_t i = 0; i < std::min(kMost, cycle); ++i) {
    const ScheduledBits& bits = segments[i].bits;
    const std::string name =
        bits.map >= 0 ? configured.at(static_cast<std::size_t>(bits.map)).name : std::to_string(bits.weight);
    line += fmt::format("{}{}x{}", i == 0 ? "" : ",", name, segments[i].count);
  }
  if (cycle > kMost) line += fmt::format(",... ({} changes in all)", segments.size() - 1);
  if (config.precision.layer_offset > 0)
    line += fmt::format(", each block {} units ahead of the one before it", config.precision.layer_offset);
  return line + (epochs ? " (width x epochs)" : " (width x steps)");
}

std::int64_t evaluations_of(const RunConfig& config) {
  const std::int64_t every = config.eval.every, steps = config.train.steps;
  return 1 + (every > 0 ? (steps - 1) / every : 0);
}

}  // namespace

const PlannedStage& RunPlan::worst() const {
  return *std::max_element(stages.begin(), stages.end(), [](const PlannedStage& a, const PlannedStage& b) {
    return a.memory.total() < b.memory.total();
  });
}

RunPlan make_run_plan(const RunConfig& given, const PlanMachine& machine, const PlanData& data) {
  const RankPlace& place = machine.place;
  RunConfig config = given;
  config.comm.wire = planned_wire(given, place, data.windows_per_epoch);
  RunPlan plan{.machine = machine, .replicas = place.ranks / config.parallel.pipeline, .wire = config.comm.wire};
  plan.micro_batches = config.train.batch_size / (config.train.micro_batch_size * plan.replicas);
  plan.stages = planned_stages(config, machine);
  RankLayout worst = layout_of(config, place);
  worst.part = plan.worst().part;
  plan.host_memory = host_memory_needed(config, worst, program_bytes(place.cuda));
  plan.available = memory_of_rank(machine, worst);
  plan.step = expected_step(config, place, data.windows_per_epoch);
  const double tokens = static_cast<double>(config.train.batch_size * config.data.sequence_length);
  const auto steps = static_cast<double>(config.train.steps);
  plan.tokens_per_s = tokens / plan.step.total();
  plan.tokens = tokens * steps;
  if (data.train_tokens) plan.epochs = plan.tokens / static_cast<double>(*data.train_tokens);
  plan.training_s = steps * plan.step.total();
  plan.evaluations = evaluations_of(config);
  if (data.val_tokens)
    plan.evaluation_s = static_cast<double>(plan.evaluations) * evaluation_seconds(config, place, *data.val_tokens);
  plan.parameters = count_parameters(config.model, config.lora, config.quant);
  plan.widths = planned_widths(config, plan);
  plan.checkpoint_bytes = checkpoint_size(config, plan.parameters, plan.replicas);
  // Beside those that stay: the newest healthy one, the one being written and, if asked for, the best.
  const CheckpointConfig& kept = config.checkpoint;
  const std::int64_t made = kept.every == 0 ? 1 : (config.train.steps + kept.every - 1) / kept.every;
  plan.checkpoints_kept =
      kept.keep == 0 ? made : std::min<std::int64_t>(made, kept.keep + 2 + (kept.keep_best ? 1 : 0));
  plan.schedule = schedule_line(config, data);
  if (!plan.fits()) plan.changes = plan_changes(config, machine);
  return plan;
}

}  // namespace qat
