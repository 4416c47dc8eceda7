#include "src/cost/plan_changes.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "src/config/validate.h"
#include "src/cost/stage_plan.h"

namespace qat {
namespace {

constexpr std::int64_t kNever = kNoLimit;

bool is_valid(const RunConfig& config, int ranks) {
  const std::vector<Finding> errors = cross_check(config).errors;
  // What a user has given was accepted with it.
  if (std::any_of(errors.begin(), errors.end(), [](const Finding& one) { return one.unless_given.empty(); }))
    return false;
  try {
    validate_parallel(config, ranks);
  } catch (const Error&) {
    return false;
  }
  return true;
}

// The stage that needs most, for configurations that differ from the run's: whatever layout.part is.
class WorstStage {
 public:
  explicit WorstStage(const PlanMachine& machine) : machine_(machine) {}

  MemoryEstimate operator()(const RunConfig& config, RankLayout layout) const {
    layout.part = {};
    if (config.parallel.pipeline == 1) return device_memory_needed(config, layout);
    const auto& given = config.parallel.cut;
    if (config.parallel.pipeline > config.model.n_layer || (!given.empty() && given.back() >= config.model.n_layer))
      return {.moment = "no run", .consumers = {{"stages without blocks", kNever}}};
    const RankPlace& place = machine_.place;
    const dist::StageCut cut = run_cut(config, run_times(config, place.cuda, place.rates));
    const std::int64_t micro_batches =
        std::max<std::int64_t>(1, config.train.batch_size / (config.train.micro_batch_size * layout.ranks));
    MemoryEstimate most;
    for (int stage = 0; stage < config.parallel.pipeline; ++stage) {
      layout.part = stage_part(config, cut, stage, micro_batches);
      MemoryEstimate one = device_memory_needed(config, layout);
      if (stage == 0 || one.total() > most.total()) most = std::move(one);
    }
    return most;
  }

 private:
  const PlanMachine& machine_;
};

// More stages for the same ranks, also with recomputation; and more ranks, which share optimizer and micro-batches.
class MoreOfThem {
 public:
  MoreOfThem(const RunConfig& config, const PlanMachine& machine) : config_(config), machine_(machine) {}

  std::optional<MemoryChange> stages(bool recompute) const {
    const int ranks = machine_.place.ranks;
    for (int stages = config_.parallel.pipeline + 1; stages <= ranks; ++stages) {
      RunConfig changed = config_;
      changed.parallel.pipeline = stages;
      changed.parallel.data = 0;
      changed.parallel.cut.clear();
      if (recompute) changed.compute.recompute = Recompute::kBlock;
      if (ranks % stages != 0 || !is_valid(changed, ranks)) continue;
      if (auto change = fitting(changed, machine_.place)) {
        change->settings = fmt::format("parallel.pipeline={}{}", stages, recompute ? " compute.recompute=block" : "");
        if (!config_.parallel.cut.empty()) change->settings += " parallel.cut=[]";
        if (config_.parallel.data != 0) change->settings += " parallel.data=0";
        return change;
      }
    }
    return std::nullopt;
  }

  std::optional<MemoryChange> ranks() const {
    RankPlace place = machine_.place;
    RunConfig changed = config_;
    changed.parallel.data = 0;
    for (int times = 2; times <= 16; times *= 2) {
      place.ranks = machine_.place.ranks * times;
      place.nodes = machine_.place.nodes * times;
      if (!is_valid(changed, place.ranks)) continue;
      if (auto change = fitting(changed, place)) {
        change->settings = fmt::format("{} ranks on {} nodes{}", place.ranks, place.nodes,
                                       config_.parallel.data != 0 ? " parallel.data=0" : "");
        return change;
      }
    }
    return std::nullopt;
  }

 private:
  std::optional<MemoryChange> fitting(const RunConfig& config, const RankPlace& place) const {
    const RankLayout layout = layout_of(config, place);
    const std::int64_t bytes = WorstStage(machine_)(config, layout).total();
    if (bytes > memory_of_rank(machine_, layout) / 10 * 9) return std::nullopt;
    return MemoryChange{.settings = {}, .bytes = bytes, .keeps_result = true};
  }

  const RunConfig& config_;
  const PlanMachine& machine_;
};

}  // namespace

RankLayout layout_of(const RunConfig& config, const RankPlace& place) {
  return {.cuda = place.cuda,
          .ranks = place.ranks / config.parallel.pipeline,
          .ranks_here = place.ranks_here(),
          .threads = place.threads};
}

MemoryEstimate device_memory_needed(const RunConfig& config, const RankLayout& layout) {
  return layout.cuda ? gpu_memory_needed(config, layout)
                     : host_memory_needed(config, layout, program_bytes(/*cuda=*/false));
}

std::int64_t memory_of_rank(const PlanMachine& machine, const RankLayout& layout) {
  if (machine.memory_bytes == kNoLimit || layout.cuda) return machine.memory_bytes;
  return machine.memory_bytes / layout.ranks_here;
}

std::vector<MemoryChange> plan_changes(const RunConfig& config, const PlanMachine& machine, std::size_t most) {
  const WorstStage needed(machine);
  const MemoryQuestion question{.needed = needed, .available = [&](const RankLayout& layout) {
                                  return memory_of_rank(machine, layout) / 10 * 9;
                                }};
  RankLayout layout = layout_of(config, machine.place);
  // Says that ranks cannot simply be fewer.
  if (config.parallel.pipeline > 1) layout.part.embeds = false;
  std::vector<MemoryChange> kept, other;
  for (MemoryChange& change : changes_that_fit(config, layout, question, most))
    (change.keeps_result ? kept : other).push_back(std::move(change));
  const MoreOfThem more(config, machine);
  const auto add = [&](std::optional<MemoryChange> change) {
    if (change && kept.size() < most) kept.push_back(std::move(*change));
    return change.has_value();
  };
  if (kept.size() < most && !add(more.stages(/*recompute=*/false)) && config.compute.recompute != Recompute::kBlock)
    add(more.stages(/*recompute=*/true));
  if (kept.size() < most) add(more.ranks());
  for (MemoryChange& change : other)
    if (kept.size() < most) kept.push_back(std::move(change));
  return kept;
}

}  // namespace qat
