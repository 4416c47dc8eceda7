#include "src/cost/step_time.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>
#include <vector>

#include "src/cost/exchange_time.h"
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
        links_(place.links),
        names_(quantized_layer_names(config.model)),
        maps_(configured_maps(config.model, config.quant, config.precision.most_gradient_bits())),
        coordinator_(planning_options(config), windows_per_epoch, {}, maps_),
        replicas_(place.ranks / config.parallel.pipeline),
        micro_batches_(config.train.batch_size / (config.train.micro_batch_size * replicas_)) {
    // As the run will: by the mean over its widths.
    if (config.parallel.pipeline > 1) cut_ = run_cut(config, run_times(config, place.cuda, place.rates));
    for (int stage = 0; stage < config.parallel.pipeline; ++stage) {
      const StagePart part =
          config.parallel.pipeline > 1 ? stage_part(config, cut_, stage, micro_batches_) : StagePart{};
      stages_.push_back({part, trained_elems(config, part)});
    }
    group_ = {.ranks = replicas(), .nodes = std::min(place.nodes, replicas())};
    if (group_.ranks % group_.nodes != 0) group_.nodes = group_.ranks;  // one level, from node to node
    if (const int here = config.comm.ranks_per_node / config.parallel.pipeline; here > 0 && here < group_.ranks) {
      group_.nodes = group_.ranks / here;
      if (place.nodes == 1) links_.network_bytes = links_.node_bytes, links_.network_latency_s = links_.node_latency_s;
    }
  }

  void add(std::int64_t step, StepTime& sum) {
    const dist::StepPlan plan = coordinator_.plan({.step = step, .samples = step * config_.train.batch_size});
    const std::vector<PrecisionMap> precision = planned_precision(names_, config_.quant, maps_, plan.maps);
    for (const dist::UpdatePlan& update : plan.updates) {
      ModelTimes times;
      for (const dist::PassPlan& pass : update.passes) {
        const PlannedPass& one = times_of(plan, pass, precision.at(pass.map));
        if (pass.trains) {
          const std::string name = precision_name(plan.maps[pass.map], maps_);
          sum.passes[name] += 1.0;
          sum.pass_s[name] = one.times.total();
        }
        add_to(times, one.times);
        sum.passes_s += one.staged_s;
        sum.idle_share += one.waited_s;
      }
      if (stages_.size() == 1) sum.passes_s += passes_in_turn(times, std::ssize(update.passes));
      add_update(update, precision, times, sum);
      sum.updates += 1.0;
    }
  }

 private:
  struct Stage {
    StagePart part;
    TrainedElems trained;
  };
  // Of one micro-batch; and of all of them through several stages, which go through one pass after the other.
  struct PlannedPass {
    ModelTimes times;
    double staged_s = 0.0;
    double waited_s = 0.0;  // of that, by a stage on average
  };

  int replicas() const { return static_cast<int>(replicas_); }

  // The optimizer, the exchange of gradients and that of updated weights: of the stage that takes longest for them.
  void add_update(const dist::UpdatePlan& update, const std::vector<PrecisionMap>& precision, const ModelTimes& times,
                  StepTime& sum) const {
    std::set<std::uint32_t> numbers;
    for (const dist::PassPlan& pass : update.passes) numbers.insert(pass.map);
    std::vector<const PrecisionMap*> maps;
    for (const std::uint32_t number : numbers) maps.push_back(&precision.at(number));
    const CodeBitsOfMaps bits = code_bits_of(config_, place_.cuda, maps);
    // Gradients are complete in the update's last pass.
    const double passes = as_double(std::ssize(update.passes));
    const bool overlapped = place_.cuda && exchanges_early(config_.comm, config_.parallel.pipeline,
                                                           config_.train.on_out_of_memory != OnOutOfMemory::kStop);
    double longest = -1.0;
    GradientTime gradients;
    Sent weights;
    double update_s = 0.0;
    for (const Stage& stage : stages_) {
      BackwardTimes backward{.head_s = times.head.total() / passes};
      if (stage.part.embeds) backward.embedding_s = times.embedding.backward_s / passes;
      for (const std::int64_t block : stage.part.blocks(config_.model.n_layer))
        backward.blocks_s.push_back(times.blocks[static_cast<std::size_t>(block)].backward_s / passes);
      std::reverse(backward.blocks_s.begin(), backward.blocks_s.end());
      const GradientTime of_gradients =
          gradient_time(config_.comm, group_, links_, stage.trained, backward, overlapped);
      const Sent of_weights = weights_sent(group_, links_, stage.trained, bits);
      const double of_update = update_seconds(stage.trained.total() / group_.ranks, place_.rates) * crowding(place_);
      const double seconds = of_update + of_gradients.added() + of_weights.seconds();
      if (seconds <= longest) continue;
      longest = seconds, gradients = of_gradients, weights = of_weights, update_s = of_update;
    }
    sum.update_s += update_s;
    sum.exchange_s += gradients.added() + weights.seconds() + table_copy_seconds();
    sum.hidden_s += gradients.hidden_s;
    sum.gradient_bytes += gradients.bytes;
    sum.weight_bytes += weights.bytes;
  }

  // Of `bytes` from a stage to the next: in a node, where the stages of all replicas are.
  double transfer_seconds(double bytes) const {
    const bool in_node = place_.ranks_here() % config_.parallel.pipeline == 0;
    const double rate = in_node ? links_.node_bytes : links_.network_bytes;
    return rate > 0.0 ? bytes / rate + (in_node ? links_.node_latency_s : links_.network_latency_s) : 0.0;
  }

  // The first stage's copy of a table that the last stage trains, after each update.
  double table_copy_seconds() const {
    const Gpt2Config& model = config_.model;
    const bool copied =
        config_.parallel.pipeline > 1 && model.tie_lm_head && !model.answers_questions() && !model.freeze_base;
    return copied ? transfer_seconds(4.0 * as_double(model.vocab_size * model.n_embd)) : 0.0;
  }

  static void add_to(ModelTimes& sum, const ModelTimes& more) {
    if (sum.blocks.empty()) sum.blocks.resize(more.blocks.size());
    for (std::size_t i = 0; i < sum.blocks.size(); ++i) sum.blocks[i] += more.blocks[i];
    sum.embedding += more.embedding;
    sum.head += more.head;
  }

  // A pass that only teaches goes forward as far as the hidden states: its logits are made beside its student's.
  const PlannedPass& times_of(const dist::StepPlan& plan, const dist::PassPlan& pass, const PrecisionMap& precision) {
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
    PlannedPass planned{.times = model_times(shape, place_.rates)};
    if (!pass.trains) planned.times.head = {};
    if (stages_.size() > 1) carry_out(planned, pass.trains);
    return cache_.emplace(std::move(key), std::move(planned)).first->second;
  }

  static std::string fmt_key(const dist::PlannedWidths& widths, const dist::PassPlan& pass) {
    std::string key = std::to_string(widths.bitmap);
    for (const std::int32_t bits : {widths.weight_bits, widths.activation_bits, widths.gradient_bits})
      key += " " + std::to_string(bits);
    for (const std::int32_t bits : widths.block_bits) key += "," + std::to_string(bits);
    return key + (pass.trains ? " trains " : " teaches ") + std::to_string(pass.teachers.size());
  }

  // Of an update whose passes together take `times` for one micro-batch, on ranks without stages.
  double passes_in_turn(const ModelTimes& times, std::int64_t passes) const {
    const std::int64_t work = micro_batches_ * passes;
    const std::int64_t rounds = (work + place_.threads - 1) / place_.threads;
    return as_double(rounds) * times.total() / as_double(passes) * crowding(place_);
  }

  // A pass through the stages, on paper.
  void carry_out(PlannedPass& pass, bool trains) const {
    dist::SimulatedPipeline pipeline = planned_pipeline(config_, pass.times, cut_, micro_batches_, trains);
    pipeline.transfer_us = 1e6 * transfer_seconds(residual_bytes());
    const dist::Timeline timeline = dist::simulate(pipeline);
    double end_us = 0.0, idle = 0.0;
    for (const dist::TimelineSpan& span : timeline) end_us = std::max(end_us, span.end_us);
    for (const dist::RankUse& use : dist::rank_use(timeline)) idle += use.idle_share / config_.parallel.pipeline;
    pass.staged_s = end_us * 1e-6 * crowding(place_);
    pass.waited_s = pass.staged_s * idle;
  }

  // The residual stream of a micro-batch, or its gradient.
  double residual_bytes() const {
    const PassShape pass{.config = config_, .sequences = config_.train.micro_batch_size, .cuda = place_.cuda};
    return as_double(pass.tokens() * config_.model.n_embd * pass.float_bytes());
  }

  const RunConfig& config_;
  const RankPlace& place_;
  Links links_;
  std::vector<std::string> names_;
  std::vector<ConfiguredMap> maps_;
  Coordinator coordinator_;
  std::int64_t replicas_, micro_batches_;
  std::map<std::string, PlannedPass> cache_;
  dist::StageCut cut_;
  std::vector<Stage> stages_;
  RankGroup group_;
};

}  // namespace

StepTime expected_step(const RunConfig& config, const RankPlace& place, std::int64_t windows_per_epoch) {
  Steps steps(config, place, windows_per_epoch);
  StepTime sum;
  const std::int64_t count = std::min(kMostSteps, config.train.steps);
  for (std::int64_t i = 0; i < count; ++i) steps.add(i * config.train.steps / count, sum);
  const double n = as_double(count);
  sum.idle_share = sum.passes_s > 0.0 ? sum.idle_share / sum.passes_s : 0.0;
  for (double* of_all : {&sum.passes_s, &sum.update_s, &sum.exchange_s, &sum.hidden_s, &sum.gradient_bytes,
                         &sum.weight_bytes, &sum.updates})
    *of_all /= n;
  for (auto& [name, passes] : sum.passes) passes /= n;
  return sum;
}

DeviceRates fitted_rates(const RunConfig& config, const RankPlace& place, double seconds,
                         std::int64_t windows_per_epoch) {
  RunConfig alone = config;
  alone.train.batch_size /= place.ranks / config.parallel.pipeline;
  alone.parallel = {};
  RankPlace one = place;
  one.ranks = one.nodes = 1;
  return slowed(place.rates, seconds / expected_step(alone, one, windows_per_epoch).total());
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
