// What a step leaves behind: the run's counters and statistics, its warnings, its line of metrics.
#include <fmt/format.h>

#include "src/train/model_report.h"
#include "src/train/trainer.h"

namespace qat {

void Trainer::account(const dist::StepPlan& plan, const StepOutcome& outcome, const std::vector<PrecisionMap>& maps,
                      double seconds) {
  const std::int64_t tokens = options_.train.batch_size * options_.data.sequence_length;
  double bitops = 0.0;
  for (const dist::UpdatePlan& update : plan.updates)
    for (const dist::PassPlan& pass : update.passes) {
      const auto work = layer_work(parts_.model, parts_.lora, maps[pass.map], tokens, options_.data.sequence_length);
      bitops_.add(work);
      bitops += step_bitops(work).total();
    }
  judge(plan, outcome);
  state_.step = static_cast<std::int64_t>(plan.step) + 1;
  state_.consumed_samples += options_.train.batch_size;
  state_.consumed_tokens += tokens;
  state_.skips_in_row = outcome.skipped ? state_.skips_in_row + 1 : 0;
  state_.skips_total += outcome.skipped ? 1 : 0;
  state_.bitops = bitops_.spent;
  state_.bitops_at_full = bitops_.at_full;
  if (!outcome.skipped) {
    applied_ = state_;
    skip_plausible_ = false;
  }
  warn_of_skips(plan, outcome);
  tell_progress();
  if (const auto slow = stragglers_.add(outcome.own_seconds))
    parts_.log.warning(
        dist::to_text(*slow, parts_.hosts.empty() ? "" : parts_.hosts[static_cast<std::size_t>(slow->rank)]));
  if (is_root()) write_metrics(plan, outcome, bitops, seconds);
}

void Trainer::warn_of_skips(const dist::StepPlan& plan, const StepOutcome& outcome) {
  for (std::size_t i = 0; i < outcome.updates.size(); ++i) {
    const UpdateOutcome& update = outcome.updates[i];
    if (!update.skipped) continue;
    const int bits = dist::widths_of(plan, plan.updates[i]).weight_bits;
    const std::string what =
        update.spike ? fmt::format("loss {:.4f} stands out from what the run has had at {} bits", update.loss, bits)
                     : fmt::format("loss {} and gradient norm {} are not both finite", update.loss, update.grad_norm);
    if (outcome.skipped && i == 0)
      parts_.log.warning(fmt::format("step {}: {}; all ranks skip the update ({} in a row, train.max_skips {})",
                                     plan.step, what, state_.skips_in_row, options_.train.max_skips));
    else
      parts_.log.warning(fmt::format("step {}: {}; all ranks skip its update {} of {}, that at {} bits", plan.step,
                                     what, i + 1, outcome.updates.size(), bits));
  }
}

// What the loss says about the parameters it was computed with, those before this step.
void Trainer::judge(const dist::StepPlan& plan, const StepOutcome& outcome) {
  const auto bits = [&](std::size_t update) { return dist::widths_of(plan, plan.updates[update]).weight_bits; };
  const Gpt2Config& model = parts_.model.config();
  const std::int64_t choices = model.answers_questions() ? options_.data.sequence_length : model.vocab_size;
  const bool plausible = losses_.is_plausible(bits(0), outcome.updates[0].loss, choices);
  if (plausible) {
    keeper_.note_plausible(applied_.step);
    if (outcome.skipped) skip_plausible_ = true;
  }
  for (std::size_t i = 0; i < outcome.updates.size(); ++i)
    if (!outcome.updates[i].skipped) losses_.add(bits(i), outcome.updates[i].loss);
}

bool Trainer::is_spike(const dist::StepPlan& plan, const dist::UpdatePlan& update, double loss) const {
  const double threshold = options_.train.spike_deviations;
  return threshold > 0.0 && losses_.deviation(dist::widths_of(plan, update).weight_bits, loss) > threshold;
}

void Trainer::write_metrics(const dist::StepPlan& plan, const StepOutcome& outcome, double bitops, double seconds) {
  const dist::PlannedWidths& widths = dist::widths_of(plan, plan.updates.front());
  const std::int64_t tokens = options_.train.batch_size * options_.data.sequence_length;
  const double tokens_per_s = static_cast<double>(tokens) / seconds;
  const bool last = state_.step == options_.train.steps;
  std::vector<PassMetrics> passes;
  for (std::size_t i = 0; i < plan.updates.size(); ++i)
    for (std::size_t j = 0; j < plan.updates[i].passes.size(); ++j)
      passes.push_back({plan.maps[plan.updates[i].passes[j].map].weight_bits, outcome.updates[i].losses[j]});
  if (passes.size() == 1) passes.clear();  // the step's own
  if (state_.step % options_.train.log_every == 0 || last || outcome.skipped)
    record([&] {
      metrics_->write({.step = static_cast<std::int64_t>(plan.step),
                       .loss = outcome.loss,
                       .lr = plan.updates.front().learning_rate,
                       .weight_bits = widths.weight_bits,
                       .act_bits = widths.activation_bits,
                       .grad_bits = widths.gradient_bits,
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
                       .passes = passes,
                       .time = {}});
    });
  if (parts_.progress != nullptr)
    parts_.progress->update(
        {.steps_done = state_.step, .loss = outcome.loss, .bits = widths.weight_bits, .tokens_per_s = tokens_per_s});
}

}  // namespace qat
