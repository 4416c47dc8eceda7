// What a step leaves behind: the run's counters and statistics, its warnings, its line of metrics.
#include <fmt/format.h>

#include <map>

#include "src/quant/tensor_memory.h"
#include "src/report/tensorboard.h"
#include "src/train/final_table.h"
#include "src/train/model_report.h"
#include "src/train/trainer.h"

namespace qat {
namespace {

// Multiply-accumulates of a pass's linear layers, by their weights' width.
std::map<int, double> macs_by_width(const Gpt2& model, const PrecisionMap& precision, std::int64_t tokens) {
  std::map<int, double> macs;
  for (std::int64_t layer = 0; layer < precision.size(); ++layer)
    macs[precision.at(layer).weight.bits()] += static_cast<double>(tokens * model.macs_per_token(layer));
  return macs;
}

// Of the multiplications and additions of a pass's products, forward and backward.
double product_operations(const std::vector<LayerWork>& work) {
  double operations = 0.0;
  for (const LayerWork& layer : work)
    operations += 2.0 * layer.macs * (1 + (layer.input_gradient ? 1 : 0) + (layer.weight_gradient ? 1 : 0));
  return operations;
}

// "at 8 bits", "at the map stripe8&4".
std::string at_precision(const dist::PlannedWidths& planned, const std::vector<ConfiguredMap>& maps) {
  const bool map = planned.bitmap != dist::PlannedWidths::kNoBitmap;
  return fmt::format("at {}{}{}", map ? "the map " : "", precision_name(planned, maps), map ? "" : " bits");
}

}  // namespace

void Trainer::account(const dist::StepPlan& plan, const StepOutcome& outcome, const std::vector<PrecisionMap>& maps,
                      double seconds) {
  const std::int64_t tokens = options_.train.batch_size * options_.data.sequence_length;
  double bitops = 0.0, products = 0.0;
  for (const dist::UpdatePlan& update : plan.updates)
    for (std::size_t pass = 0; pass < update.passes.size(); ++pass) {
      const auto work = pass_work(parts_.model.whole(), update, pass, maps, tokens, options_.data.sequence_length);
      bitops_.add(work);
      bitops += step_bitops(work).total();
      products += product_operations(work);
      const dist::PassPlan& planned = update.passes[pass];
      if (planned.trains)
        usage_.add_pass(precision_name(plan.maps[planned.map], maps_),
                        macs_by_width(parts_.model.whole(), maps[planned.map], tokens));
    }
  loss_change_.reset();
  for (std::size_t i = 0; i < outcome.updates.size(); ++i) {
    const bool one = plan.updates[i].passes.size() == 1;
    if (outcome.updates[i].skipped) continue;
    loss_change_ = usage_.add_loss(one ? precision_name(dist::widths_of(plan, plan.updates[i]), maps_) : "all",
                                   outcome.updates[i].loss);
  }
  judge(plan, outcome);
  state_.step = static_cast<std::int64_t>(plan.step) + 1;
  state_.consumed_samples += options_.train.batch_size;
  state_.consumed_tokens += tokens;
  state_.skips_in_row = outcome.skipped ? state_.skips_in_row + 1 : 0;
  state_.skips_total += outcome.skipped ? 1 : 0;
  state_.bitops = bitops_.spent;
  state_.bitops_at_full = bitops_.at_full;
  state_.precision_usage = usage_.to_text();
  wire_.add(outcome.wire);
  wire_updates_ += static_cast<std::int64_t>(outcome.updates.size());
  if (!outcome.skipped) {
    applied_ = state_;
    skip_plausible_ = false;
  }
  warn_of_skips(plan, outcome);
  tell_progress();
  look_for_stragglers(outcome.own_seconds);
  if (is_root()) write_metrics(plan, outcome, bitops, products, seconds);
}

void Trainer::look_for_stragglers(std::span<const double> own_seconds) {
  const dist::Grid& grid = parts_.grid;
  for (int stage = 0; stage < grid.stages(); ++stage) {
    std::vector<double> seconds;
    for (int replica = 0; replica < grid.data_size(); ++replica)
      seconds.push_back(own_seconds[static_cast<std::size_t>(grid.rank_of(replica, stage))]);
    std::optional<dist::Straggler> slow = stragglers_[static_cast<std::size_t>(stage)].add(seconds);
    if (!slow) continue;
    slow->rank = grid.rank_of(slow->rank, stage);
    parts_.log.warning(
        dist::to_text(*slow, parts_.hosts.empty() ? "" : parts_.hosts[static_cast<std::size_t>(slow->rank)]));
  }
}

void Trainer::warn_of_skips(const dist::StepPlan& plan, const StepOutcome& outcome) {
  for (std::size_t i = 0; i < outcome.updates.size(); ++i) {
    const UpdateOutcome& update = outcome.updates[i];
    if (!update.skipped) continue;
    const std::string at = at_precision(dist::widths_of(plan, plan.updates[i]), maps_);
    const std::string what =
        update.spike ? fmt::format("loss {:.4f} stands out from what the run has had {}", update.judged, at)
                     : fmt::format("loss {} and gradient norm {} are not both finite", update.loss, update.grad_norm);
    if (outcome.skipped && i == 0)
      parts_.log.warning(fmt::format("step {}: {}; all ranks skip the update ({} in a row, train.max_skips {})",
                                     state_.step, what, state_.skips_in_row, options_.train.max_skips));
    else
      parts_.log.warning(fmt::format("step {}: {}; all ranks skip its update {} of {}, that {}", state_.step, what,
                                     i + 1, outcome.updates.size(), at));
  }
}

// What the loss says about the parameters it was computed with, those before this step.
void Trainer::judge(const dist::StepPlan& plan, const StepOutcome& outcome) {
  const auto key = [&](std::size_t update) {
    return precision_key(dist::widths_of(plan, plan.updates[update]), maps_);
  };
  const Gpt2Config& model = parts_.model.config();
  const std::int64_t choices = model.answers_questions() ? options_.data.sequence_length : model.vocab_size;
  const bool plausible = losses_.is_plausible(key(0), outcome.updates[0].judged, choices);
  if (plausible) {
    keeper_.note_plausible(applied_.step);
    if (outcome.skipped) skip_plausible_ = true;
  }
  for (std::size_t i = 0; i < outcome.updates.size(); ++i)
    if (!outcome.updates[i].skipped) losses_.add(key(i), outcome.updates[i].judged);
}

bool Trainer::is_spike(const dist::StepPlan& plan, const dist::UpdatePlan& update, double loss) const {
  const double threshold = options_.train.spike_deviations;
  return threshold > 0.0 && losses_.deviation(precision_key(dist::widths_of(plan, update), maps_), loss) > threshold;
}

void Trainer::record_evaluation(const WidthScore& score) {
  record([&] {
    const Value line = evaluation_record(score, state_.step);
    evaluations_->append(line);
    if (events_) events_->write(state_.step, evaluation_summary(line));
  });
}

void Trainer::write_metrics(const dist::StepPlan& plan, const StepOutcome& outcome, double bitops, double products,
                            double seconds) {
  const dist::PlannedWidths& widths = dist::widths_of(plan, plan.updates.front());
  const std::int64_t tokens = options_.train.batch_size * options_.data.sequence_length;
  const double tokens_per_s = static_cast<double>(tokens) / seconds;
  const bool last = state_.step == options_.train.steps;
  const auto map_name = [&](const dist::PlannedWidths& planned) {
    return planned.bitmap == dist::PlannedWidths::kNoBitmap ? "" : precision_name(planned, maps_);
  };
  std::vector<PassMetrics> passes;
  for (std::size_t i = 0; i < plan.updates.size(); ++i)
    for (std::size_t j = 0; j < plan.updates[i].passes.size(); ++j) {
      const dist::PassPlan& pass = plan.updates[i].passes[j];
      const PassLosses& losses = outcome.updates[i].losses[j];
      PassMetrics& line = passes.emplace_back(
          PassMetrics{.weight_bits = plan.maps[pass.map].weight_bits, .map = map_name(plan.maps[pass.map])});
      if (pass.trains) line.loss = losses.cross_entropy;
      if (pass.loss.distillation > 0.0) line.distillation = losses.distillation;
      if (!pass.feature_layers.empty()) line.features = losses.features;
    }
  if (passes.size() == 1) passes.clear();  // the step's own
  std::optional<StepMetrics::Wire> wire;
  if (parts_.grid.data_size() > 1)
    wire = {.bytes = outcome.wire.sent_bytes,
            .fp32_bytes = outcome.wire.fp32_bytes,
            .weight_bytes = outcome.wire.weight_bytes,
            .exposed_ms = outcome.wire.seconds * 1e3,
            .weight_exposed_ms = outcome.wire.weight_seconds * 1e3};
  std::optional<StepMetrics::Transfers> transfers;
  if (parts_.grid.stages() > 1) transfers = {.bytes = outcome.transfers.sent, .bf16_bytes = outcome.transfers.bf16};
  const std::optional<PrecisionUsage::Change> change = plan.updates.size() == 1 ? loss_change_ : std::nullopt;
  std::optional<StepMetrics::Memory> memory;
  if (const std::optional<MemoryInUse> used = memory_in_use(parts_.model.mode().device))
    memory = {.bytes = used->bytes, .reserved_bytes = used->reserved_bytes};
  const auto phase = coordinator_->phase(
      {.step = static_cast<std::int64_t>(plan.step), .samples = static_cast<std::int64_t>(plan.first_sample)});
  if (state_.step % options_.train.log_every == 0 || last || outcome.skipped)
    record([&] {
      const StepMetrics metrics{.step = static_cast<std::int64_t>(plan.step),
                                .loss = outcome.loss,
                                .lr = plan.updates.front().learning_rate,
                                .map = passes.empty() ? map_name(widths) : "",
                                .weight_bits = widths.weight_bits,
                                .act_bits = widths.activation_bits,
                                .grad_bits = widths.gradient_bits,
                                .cycle = phase ? std::optional(phase->cycle) : std::nullopt,
                                .grad_norm = outcome.grad_norm,
                                .clipped = outcome.clipped,
                                .tokens = tokens,
                                .tokens_per_s = tokens_per_s,
                                .step_ms = seconds * 1e3,
                                .bitops = bitops,
                                .bitops_ratio = bitops_.ratio(),
                                .skipped = outcome.skipped,
                                .skips_in_a_row = static_cast<int>(state_.skips_in_row),
                                .saving = keeper_.is_saving(),
                                .wire = wire,
                                .transfers = transfers,
                                .memory = memory,
                                .loss_change = change ? std::optional(change->loss) : std::nullopt,
                                .switched = change && change->switched,
                                .passes = passes,
                                .time = {}};
      metrics_->write(metrics);
      if (events_) events_->write(metrics.step, step_summary(metrics));
    });
  if (parts_.progress != nullptr) show_progress(plan, outcome, products, seconds);
}

void Trainer::show_progress(const dist::StepPlan& plan, const StepOutcome& outcome, double products, double seconds) {
  const bool several = plan.updates.size() > 1 || plan.updates.front().passes.size() > 1;
  const dist::PlannedWidths& widths = dist::widths_of(plan, plan.updates.front());
  const bool map = widths.bitmap != dist::PlannedWidths::kNoBitmap;
  ProgressState shown{
      .steps_done = state_.step,
      .loss = outcome.loss,
      .precision = several ? fmt::format("{} precisions", plan.maps.size())
                           : precision_name(widths, maps_) + (map ? "" : " bits"),
      .tokens_per_s = static_cast<double>(options_.train.batch_size * options_.data.sequence_length) / seconds};
  const RunPosition position{.step = static_cast<std::int64_t>(plan.step),
                             .samples = static_cast<std::int64_t>(plan.first_sample)};
  if (const auto phase = coordinator_->phase(position))
    shown.cycle = {.number = phase->cycle, .of = phase->cycles, .share = phase->share};
  if (parts_.product_peak > 0.0)
    shown.peak_share = products / (seconds * parts_.product_peak * static_cast<double>(world().size()));
  parts_.progress->update(shown);
}

}  // namespace qat
