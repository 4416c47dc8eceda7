#include "src/memory/memory_advice.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <sstream>

#include "src/report/numbers.h"

namespace qat {
namespace {

struct Plan {
  RunConfig config;
  RankLayout layout;
};

// One setting and the values to try, from the mildest on. A value is applied to a plan, and says how it is set.
struct Value {
  std::string text;
  std::function<void(Plan&)> apply;
};
using Knob = std::vector<Value>;

enum KnobName : std::size_t {
  kRecompute,
  kMicroBatch,
  kThreads,
  kRanksHere,
  kEvalBatch,
  kSequence,
  kFreeze,
  kLayers,
  kPreset,
  kKnobs
};

template <typename Set>
Value value(const std::string& key, std::int64_t number, Set set) {
  return {fmt::format("{}={}", key, number), [number, set](Plan& plan) { set(plan, number); }};
}

// n - 1, ..., 1 that divide `of`.
template <typename Set>
Knob smaller_divisors(const std::string& key, std::int64_t n, std::int64_t of, Set set) {
  Knob knob;
  for (std::int64_t k = n - 1; k >= 1; --k)
    if (of % k == 0) knob.push_back(value(key, k, set));
  return knob;
}

// n / 2, n / 4, ... down to `least`.
template <typename Set>
Knob halves(const std::string& key, std::int64_t n, std::int64_t least, Set set) {
  Knob knob;
  for (std::int64_t k = n / 2; k >= least; k /= 2) knob.push_back(value(key, k, set));
  return knob;
}

// Fewer processes on this host share its memory; the others' micro-batches are theirs then, and threads stay as they
// are.
Knob fewer_ranks(const RunConfig& config, const RankLayout& layout) {
  Knob knob;
  if (!layout.part.is_whole()) return knob;  // a stage's rank cannot do without the others
  const int hosts = std::max(1, layout.ranks / layout.ranks_here);
  for (int here = layout.ranks_here - 1; here >= 1 && !layout.cuda; --here) {
    const int ranks = hosts * here;
    if (config.train.batch_size % (config.train.micro_batch_size * ranks) != 0) continue;
    const std::string where = hosts > 1 ? fmt::format("{} ranks a host", here) : fmt::format("mpirun -np {}", ranks);
    knob.push_back({fmt::format("{} parallel.threads_per_rank={}", where, layout.threads),
                    [=](Plan& plan) { plan.layout.ranks = ranks, plan.layout.ranks_here = here; }});
  }
  return knob;
}

// Named sizes with the same vocabulary and room for the sequence, from the largest down.
Knob smaller_presets(const RunConfig& config) {
  const auto parameters = [](const Gpt2Config& model) { return count_parameters(model, {.rank = 0}, {}).trained; };
  std::vector<Gpt2Config> models;
  std::istringstream names(gpt2_preset_names());
  for (std::string name; std::getline(names >> std::ws, name, ',');) {
    Gpt2Config model = config.model;
    apply_gpt2_preset(name, model);
    if (model.vocab_size == config.model.vocab_size && model.n_positions >= config.data.sequence_length &&
        parameters(model) < parameters(config.model))
      models.push_back(model);
  }
  std::sort(models.begin(), models.end(),
            [&](const Gpt2Config& a, const Gpt2Config& b) { return parameters(a) > parameters(b); });
  Knob knob;
  for (const Gpt2Config& model : models)
    knob.push_back({"model.preset=" + model.preset, [model](Plan& plan) { plan.config.model = model; }});
  return knob;
}

std::array<Knob, kKnobs> knobs_of(const RunConfig& config, const RankLayout& layout) {
  std::array<Knob, kKnobs> knobs;
  knobs[kRanksHere] = fewer_ranks(config, layout);
  knobs[kEvalBatch] = halves("eval.batch_size", config.eval.batch_size, 1,
                             [](Plan& plan, std::int64_t n) { plan.config.eval.batch_size = n; });
  if (!layout.cuda)
    for (int n = layout.threads - 1; n >= 1; --n)
      knobs[kThreads].push_back(value("parallel.threads_per_rank", n,
                                      [](Plan& plan, std::int64_t k) { plan.layout.threads = static_cast<int>(k); }));
  if (!layout.training) return knobs;  // the model is given, and nothing is trained
  const auto& compute = config.compute;
  if (compute.recompute == Recompute::kNone && layout.cuda)
    knobs[kRecompute].push_back(
        {"compute.recompute=selective", [](Plan& plan) { plan.config.compute.recompute = Recompute::kSelective; }});
  if (compute.recompute != Recompute::kBlock)
    knobs[kRecompute].push_back(
        {"compute.recompute=block", [](Plan& plan) { plan.config.compute.recompute = Recompute::kBlock; }});
  knobs[kMicroBatch] =
      smaller_divisors("train.micro_batch_size", config.train.micro_batch_size, config.train.batch_size / layout.ranks,
                       [](Plan& plan, std::int64_t n) { plan.config.train.micro_batch_size = n; });
  knobs[kSequence] = halves("data.sequence_length", config.data.sequence_length, 16,
                            [](Plan& plan, std::int64_t n) { plan.config.data.sequence_length = n; });
  if (!config.model.freeze_base && has_adapters(config.lora, quantized_weight_widths(config.quant)))
    knobs[kFreeze].push_back({"model.freeze_base=true", [](Plan& plan) { plan.config.model.freeze_base = true; }});
  knobs[kLayers] = halves("model.n_layer", config.model.n_layer, 1,
                          [](Plan& plan, std::int64_t n) { plan.config.model.n_layer = n; });
  knobs[kPreset] = smaller_presets(config);
  return knobs;
}

// Which knobs are turned together, in the order in which changes are offered.
const std::vector<std::vector<KnobName>>& combinations() {
  static const std::vector<std::vector<KnobName>> all = {{kMicroBatch},
                                                         {kRecompute},
                                                         {kThreads},
                                                         {kRanksHere},
                                                         {kEvalBatch},
                                                         {kMicroBatch, kRecompute},
                                                         {kMicroBatch, kThreads},
                                                         {kMicroBatch, kEvalBatch},
                                                         {kRecompute, kThreads},
                                                         {kRecompute, kEvalBatch},
                                                         {kRecompute, kRanksHere},
                                                         {kThreads, kEvalBatch},
                                                         {kRanksHere, kEvalBatch},
                                                         {kMicroBatch, kRecompute, kThreads},
                                                         {kMicroBatch, kRecompute, kEvalBatch},
                                                         {kSequence},
                                                         {kSequence, kRecompute},
                                                         {kFreeze},
                                                         {kFreeze, kMicroBatch},
                                                         {kFreeze, kMicroBatch, kRecompute},
                                                         {kPreset},
                                                         {kLayers},
                                                         {kPreset, kMicroBatch},
                                                         {kLayers, kMicroBatch},
                                                         {kPreset, kMicroBatch, kRecompute},
                                                         {kLayers, kMicroBatch, kRecompute}};
  return all;
}

class Search {
 public:
  Search(const RunConfig& config, const RankLayout& layout, const MemoryQuestion& question)
      : plan_{config, layout}, question_(question), knobs_(knobs_of(config, layout)) {}

  // The first that fits, the first knob turning fastest; none: even all knobs at their ends are not enough.
  std::optional<MemoryChange> first_fit(std::span<const KnobName> names) const {
    for (const KnobName name : names)
      if (knobs_[name].empty()) return std::nullopt;
    return turn(names, plan_, "");
  }

 private:
  std::optional<MemoryChange> turn(std::span<const KnobName> names, const Plan& plan,
                                   const std::string& settings) const {
    if (names.empty()) {
      const std::int64_t bytes = question_.needed(plan.config, plan.layout).total();
      if (bytes > question_.available(plan.layout)) return std::nullopt;
      return MemoryChange{settings, bytes};
    }
    for (const Value& one : knobs_[names.back()]) {
      Plan changed = plan;
      one.apply(changed);
      auto found =
          turn(names.first(names.size() - 1), changed, settings.empty() ? one.text : one.text + " " + settings);
      if (found) return found;
    }
    return std::nullopt;
  }

  Plan plan_;
  const MemoryQuestion& question_;
  std::array<Knob, kKnobs> knobs_;
};

bool contains_one(const std::vector<KnobName>& names, const std::vector<std::vector<KnobName>>& found) {
  return std::any_of(found.begin(), found.end(), [&](const std::vector<KnobName>& part) {
    return std::all_of(part.begin(), part.end(),
                       [&](KnobName name) { return std::find(names.begin(), names.end(), name) != names.end(); });
  });
}

}  // namespace

std::vector<MemoryChange> changes_that_fit(const RunConfig& config, const RankLayout& layout,
                                           const MemoryQuestion& question, std::size_t most) {
  const Search search(config, layout, question);
  std::vector<MemoryChange> changes;
  std::vector<std::vector<KnobName>> found;
  for (const std::vector<KnobName>& names : combinations()) {
    if (changes.size() == most) break;
    if (contains_one(names, found)) continue;  // less is enough
    if (auto change = search.first_fit(names)) {
      change->keeps_result = std::all_of(names.begin(), names.end(), [](KnobName name) { return name < kSequence; });
      changes.push_back(std::move(*change));
      found.push_back(names);
    }
  }
  return changes;
}

std::string describe(const MemoryEstimate& estimate, std::size_t names) {
  std::string text = fmt::format("about {} in {}", byte_size(estimate.total()), estimate.moment);
  std::int64_t rest = 0;
  for (std::size_t i = 0; i < estimate.consumers.size(); ++i) {
    const MemoryConsumer& one = estimate.consumers[i];
    if (i < names)
      text += fmt::format("{}{} {}", i == 0 ? ": " : ", ", one.name, byte_size(one.bytes));
    else
      rest += one.bytes;
  }
  return rest > 0 ? text + ", others " + byte_size(rest) : text;
}

std::string describe(const std::vector<MemoryChange>& changes) {
  if (changes.empty())
    return "nothing in the configuration that was tried would fit: a machine with more memory is needed";
  std::string text = changes.size() == 1 ? "this change would fit:" : "each of these changes alone would fit:";
  for (const MemoryChange& change : changes)
    text += fmt::format("\n  {}: about {}", change.settings, byte_size(change.bytes));
  return text;
}

}  // namespace qat
