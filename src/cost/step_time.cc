#include "src/cost/step_time.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "src/cost/stage_plan.h"
#include "src/train/coordinator.h"

namespace qat {
namespace {

constexpr std::int64_t kMostSteps = 256;

double as_double(std::int64_t value) { return static_cast<double>(value); }

TrainerOptions planning_options(const RunConfig& config) {
  TrainerOptions options;
  options.run = config.run;
  options.train = config.train;
  options.distill = config.distill;
  options.quant = config.quant;
  options.precision = config.precision;
  options.lr = config.lr;
  options.eval = config.eval;
  options.checkpoint = config.checkpoint;
  options.model = config.model;
  return options;
}

// Ranks that are more than the cores take turns.
double crowding(const RankPlace& place) {
  if (place.cuda || place.cores == 0) return 1.0;
  return std::max(1.0, as_double(std::int64_t{place.ranks_here()} * place.threads) / place.cores);
}

class Steps {
 public:
  Steps(const RunConfig& config, const RankPlace& place, std::int64_t windows_per_epoch)
      : config_(config),
        place_(place),
        names_(quantized_layer_names(config.model)),
        maps_(configured_maps(config.model, config.quant, config.precision.most_gradient_bits())),
        coordinator_(planning_options(config), windows_per_epoch, {}, maps_),
        replicas_(place.ranks / config.parallel.pipeline),
        micro_batches_(config.train.batch_size / (config.train.micro_batch_size * replicas_)) {
    // As the run will: by the mean over its widths.
    if (config.parallel.pipeline > 1) cut_ = run_cut(config, run_times(config, place.cuda, place.rates));
  }

  void add(std::int64_t step, StepTime& sum) {
    const dist::StepPlan plan = coordinator_.plan({.step = step, .samples = step * config_.train.batch_size});
    const std::vector<PrecisionMap> precision = planned_precision(names_, config_.quant, maps_, plan);
    for (const dist::UpdatePlan& update : plan.updates) {
      ModelTimes times;
      for (const dist::PassPlan& pass : update.passes) {
        const ModelTimes& one = times_of(plan, pass, precision.at(pass.map));
        if (pass.trains) {
          const std::string name = precision_name(plan.maps[pass.map], maps_);
          sum.passes[name] += 1.0;
          sum.pass_s[name] = one.total();
        }
        add_to(times, one);
      }
      const auto [seconds, idle] = update_passes(times, static_cast<std::int64_t>(update.passes.size()));
      sum.passes_s += seconds;
      sum.idle_share += seconds * idle;
    }
    updates_ += static_cast<std::int64_t>(plan.updates.size());
  }

  std::int64_t updates() const { return updates_; }

 private:
  static void add_to(ModelTimes& sum, const ModelTimes& more) {
    if (sum.blocks.empty()) sum.blocks.resize(more.blocks.size());
    for (std::size_t i = 0; i < sum.blocks.size(); ++i) sum.blocks[i] += more.blocks[i];
    sum.embedding += more.embedding;
    sum.head += more.head;
  }

  // A pass that only teaches goes forward as far as the hidden states: its logits are made beside its student's.
  const ModelTimes& times_of(const dist::StepPlan& plan, const dist::PassPlan& pass, const PrecisionMap& precision) {
    const dist::PlannedWidths& widths = plan.maps[pass.map];
    std::string key = fmt_key(widths, pass);
    const auto found = cache_.find(key);
    if (found != cache_.end()) return found->second;
    PassShape shape{.config = config_,
                    .precision = precision,
                    .sequences = config_.train.micro_batch_size,
                    .cuda = place_.cuda,
                    .training = pass.trains,
                    .teachers = pass.loss.distillation > 0.0 ? static_cast<std::int64_t>(pass.teachers.size()) : 0};
    ModelTimes times = model_times(shape, place_.rates);
    if (!pass.trains) times.head = {};
    return cache_.emplace(std::move(key), std::move(times)).first->second;
  }

  static std::string fmt_key(const dist::PlannedWidths& widths, const dist::PassPlan& pass) {
    std::string key = std::to_string(widths.bitmap);
    for (const std::int32_t bits : {widths.weight_bits, widths.activation_bits, widths.gradient_bits})
      key += " " + std::to_string(bits);
    for (const std::int32_t bits : widths.block_bits) key += "," + std::to_string(bits);
    return key + (pass.trains ? " trains " : " teaches ") + std::to_string(pass.teachers.size());
  }

  // Of an update whose passes together take `times` for one micro-batch: seconds, and the share that stages wait.
  std::pair<double, double> update_passes(const ModelTimes& times, std::int64_t passes) const {
    if (config_.parallel.pipeline == 1) {
      const std::int64_t work = micro_batches_ * passes;
      const std::int64_t rounds = (work + place_.threads - 1) / place_.threads;
      return {as_double(rounds) * times.total() / as_double(passes) * crowding(place_), 0.0};
    }
    ModelTimes mean = times;
    const auto share = [&](PassTime& time) {
      time.forward_s /= as_double(passes), time.backward_s /= as_double(passes);
    };
    for (PassTime& block : mean.blocks) share(block);
    share(mean.embedding);
    share(mean.head);
    const dist::Timeline timeline = dist::simulate(planned_pipeline(config_, mean, cut_, micro_batches_ * passes));
    double end_us = 0.0, idle = 0.0;
    for (const dist::TimelineSpan& span : timeline) end_us = std::max(end_us, span.end_us);
    for (const dist::RankUse& use : dist::rank_use(timeline)) idle += use.idle_share / config_.parallel.pipeline;
    return {end_us * 1e-6 * crowding(place_), idle};
  }

  const RunConfig& config_;
  const RankPlace& place_;
  std::vector<std::string> names_;
  std::vector<ConfiguredMap> maps_;
  Coordinator coordinator_;
  std::int64_t replicas_, micro_batches_;
  std::int64_t updates_ = 0;
  std::map<std::string, ModelTimes> cache_;
  dist::StageCut cut_;
};

}  // namespace

ExchangeBytes exchange_bytes(const RunConfig& config, std::int64_t trained, int replicas, int nodes) {
  if (replicas == 1) return {};
  const double elems = as_double(trained), ranks = replicas, hosts = std::min(nodes, replicas), here = ranks / hosts;
  double element = 4.0;
  const double scale = (config.comm.sum == WireSumName::kTwoPhase ? 4.0 : 8.0) / as_double(config.comm.block);
  if (config.comm.wire == WireFormatName::kBf16) element = 2.0;
  if (config.comm.wire == WireFormatName::kInt8) element = 1.0 + scale;
  if (config.comm.wire == WireFormatName::kInt4) element = 0.5 + scale;
  // Gradients: of a node's ranks each adds up its share for all nodes, and then a node sends what it has added up.
  // Parameters come back as they are, from every owner to every rank.
  return {.in_node = (element + 4.0) * elems * (here - 1.0) / here,
          .between_nodes = (element / here + 4.0 / here) * elems * (hosts - 1.0) / hosts};
}

StepTime expected_step(const RunConfig& config, const RankPlace& place, std::int64_t windows_per_epoch) {
  Steps steps(config, place, windows_per_epoch);
  StepTime sum;
  const std::int64_t count = std::min(kMostSteps, config.train.steps);
  for (std::int64_t i = 0; i < count; ++i) steps.add(i * config.train.steps / count, sum);
  const double n = as_double(count);
  sum.idle_share = sum.passes_s > 0.0 ? sum.idle_share / sum.passes_s : 0.0;
  sum.passes_s /= n;
  for (auto& [name, passes] : sum.passes) passes /= n;

  const int stages = config.parallel.pipeline, replicas = place.ranks / stages;
  const ParameterCount whole = count_parameters(config.model, config.lora, config.quant);
  // Stages have about as many parameters each.
  const double of_rank = as_double(whole.in_a_step()) / stages, updates = as_double(steps.updates()) / n;
  sum.update_s = updates * update_seconds(of_rank / replicas, place.rates) * crowding(place);
  const int nodes = std::min(place.nodes, replicas);
  const ExchangeBytes bytes = exchange_bytes(config, static_cast<std::int64_t>(of_rank), replicas, nodes);
  if (bytes.in_node > 0.0 && place.links.node_bytes > 0.0) sum.exchange_s += bytes.in_node / place.links.node_bytes;
  if (bytes.between_nodes > 0.0 && place.links.network_bytes > 0.0)
    sum.exchange_s += bytes.between_nodes / place.links.network_bytes;
  sum.exchange_s *= updates;
  sum.updates = updates;
  return sum;
}

double evaluation_seconds(const RunConfig& config, const RankPlace& place, std::int64_t tokens) {
  const std::int64_t length = config.data.sequence_length;
  if (config.eval.max_tokens > 0) tokens = std::min(tokens, config.eval.max_tokens);
  const std::int64_t stride = config.eval.stride > 0 ? config.eval.stride : length;
  const std::int64_t windows = (tokens + stride - 1) / stride;
  const std::int64_t passes = (windows + config.eval.batch_size - 1) / config.eval.batch_size;
  const std::int64_t at_once = std::int64_t{place.ranks / config.parallel.pipeline} * place.threads;
  double seconds = 0.0;
  const auto add = [&](const PassShape& pass) {
    seconds += std::ceil(as_double(passes) / as_double(at_once)) * model_times(pass, place.rates).total();
  };
  const Evaluated evaluated = evaluated_by(config.eval, config.quant);
  for (const int bits : evaluated.widths) add(evaluation_pass(config, place.cuda, bits));
  for (const std::string& map : evaluated.maps) add(map_pass(config, place.cuda, map, /*training=*/false));
  return seconds * crowding(place);
}

}  // namespace qat
