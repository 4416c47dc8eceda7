#include "src/config/field_rules.h"
#include "src/config/run_config.h"

// The keys of sections "precision" and "lr".

namespace qat::rules {

void add_schedules(std::vector<Field<RunConfig>>& f) {
  using R = RunConfig;
  using P = PrecisionScheduleConfig;
  using L = LrScheduleConfig;
  f.push_back(
      key("precision.kind", at(&R::precision, &P::kind), any(), "",
          "shape of the precision schedule: cosine, linear, exponential, rex, triangular, list and constant are of "
          "widths; cyclic, random, progressive and scheduled switch between quant.maps or, where there are none, "
          "quant.widths",
          {"schedule_type", "schedule", "switch_strategy"}));
  f.push_back(key("precision.phase", at(&R::precision, &P::phase), any(), "",
                  "cosine, linear, exponential and rex: rise: min to max, then jump (arXiv:2101.09868); full: min to "
                  "max to min; fall: max to min after warmup_steps at max; valley: max to min to max "
                  "(arXiv:2403.02243)"));
  f.push_back(key("precision.reflection", at(&R::precision, &P::reflection), any(), "",
                  "exponential and rex, where they go down: as the way up backwards (horizontal), or upside down "
                  "(vertical)"));
  f.push_back(key("precision.unit", at(&R::precision, &P::unit), any(), "",
                  "the schedule advances per step or per epoch (one pass over the training tokens)"));
  f.push_back(key("precision.cycles", at(&R::precision, &P::cycles), from(1), "",
                  "cycles over the whole run, each at least 2 units long",
                  {"total_cycles", "num_cycles", "num_cyclic_period"}));
  f.push_back(key("precision.min_bits", at(&R::precision, &P::min_bits), width_or_auto(), "bits",
                  "lowest scheduled width; auto: the range test finds it before the first step (range_test)"));
  f.push_back(key("precision.max_bits", at(&R::precision, &P::max_bits), width_or_auto(), "bits",
                  "highest scheduled width; auto: likewise"));
  f.push_back(key("precision.list", at(&R::precision, &P::list),
                  list(width(), /*empty_allowed=*/true, /*unique=*/false), "bits",
                  "list only: the widths of one cycle, each held for an equal share of it",
                  {"pattern", "bit_width_pattern", "bit_width_schedule"}));
  f.push_back(
      key("precision.cycle_drop", at(&R::precision, &P::cycle_drop), between(0, 32), "bits",
          "list only: by how much each cycle's widths lie below the one before it, down to 2 and to the nearest "
          "of quant.widths; 0: all cycles are the same",
          {"progressive_cycles"}));
  f.push_back(key("precision.warmup_steps", at(&R::precision, &P::warmup_steps), from(0), "units",
                  "fall only: steps or epochs at max_bits before the first cycle"));
  f.push_back(key("precision.switch_interval", at(&R::precision, &P::switch_interval), between(1, 1e9), "units",
                  "cyclic, random and scheduled: steps or epochs that a choice is held"));
  f.push_back(key("precision.switch_probability", at(&R::precision, &P::switch_probability), between(0, 1),
                  "probability", "random only: of drawing another choice after each interval"));
  f.push_back(key("precision.pattern", at(&R::precision, &P::pattern),
                  list({}, /*empty_allowed=*/true, /*unique=*/false), "",
                  "scheduled only: widths or names of maps, in turn and over and over, each with the units it is held "
                  "behind a colon (\"8:20\"); without one: switch_interval"));
  f.push_back(key("precision.layer_offset", at(&R::precision, &P::layer_offset), between(0, 1e6), "units",
                  "steps or epochs that each block is ahead of the one before it in the schedule of widths; 0: all "
                  "blocks have the same width",
                  {"layer_wise_cycling", "layerwise_cycling", "layer_wise_offset"}));
  f.push_back(key("precision.static_after", at(&R::precision, &P::static_after), between(0, 1e9), "units",
                  "steps or epochs after which the schedule ends and all that follow are at static_at; 0: never",
                  {"finetune_after"}));
  f.push_back(key("precision.static_at", at(&R::precision, &P::static_at), maybe_empty(), "",
                  "one of quant.widths or, where there are maps, the name of one", {"target_bits", "static_bits"}));
  f.push_back(key("precision.grad_kind", at(&R::precision, &P::grad_kind), any(), "",
                  "gradient bits: constant: grad_min_bits always; scheduled: as the widths, between both bounds"));
  f.push_back(key("precision.grad_min_bits", at(&R::precision, &P::grad_min_bits), code_width(), "bits",
                  "width of backward's gradients; 32: not quantized", {"gradient_bits", "grad_bits", "num_grad_bits"}));
  f.push_back(key("precision.grad_max_bits", at(&R::precision, &P::grad_max_bits), code_width(), "bits",
                  "scheduled only: highest width of gradients"));
  f.push_back(key("lr.peak", at(&R::lr, &L::peak), normal_float(), "", "learning rate after warm-up",
                  {"learning_rate", "max_lr", "base_lr"}));
  f.push_back(
      key("lr.min_ratio", at(&R::lr, &L::min_ratio), between(0, 1), "",
          "the last step's learning rate is peak * min_ratio, except with lr.decay \"constant\" and \"piecewise\", or "
          "where warm-up takes every step",
          {"min_learning_rate", "min_lr", "eta_min"}));
  f.push_back(key("lr.warmup_steps", at(&R::lr, &L::warmup_steps), from(0), "steps",
                  "linear from peak / warmup_steps to peak, which the last of these steps has",
                  {"warmup", "warmup_iters", "warmup_ratio"}));
  f.push_back(key("lr.decay", at(&R::lr, &L::decay), any(), "", "how the learning rate falls after warm-up",
                  {"scheduler_type", "lr_scheduler"}));
  f.push_back(key("lr.milestones", at(&R::lr, &L::milestones), maybe_empty(), "",
                  "piecewise only: from which step on the rate is which part of lr.peak, by rising step",
                  {"lr_steps", "lr_milestones"}));
  f.push_back(
      key("lr.scale_preset", at(&R::lr, &L::scale_preset), any(), "",
          "factors on the rate by weight width: 000-up, 4 bits 4, 8 bits 2, 16 bits 1.5; 001-down, 2 bits 0.5, 4 "
          "bits 0.75; other widths 1"));
  f.push_back(key("lr.scale_per_width", at(&R::lr, &L::scale_per_width), maybe_empty(), "",
                  "factors of single widths, in place of the preset's", {"lr_scale_per_bit", "gradient_scales"}));
}

void add_range_test(std::vector<Field<RunConfig>>& f) {
  using R = RunConfig;
  using T = RangeTestConfig;
  f.push_back(
      key("range_test.form", at(&R::range_test, &T::form), any(), "",
          "accuracy: the lowest width at which the training accuracy gains more than threshold "
          "(arXiv:2101.09868); plateau: the lowest at which the loss falls by more than the part threshold, and "
          "up to where more bits bring little"));
  f.push_back(key("range_test.steps", at(&R::range_test, &T::steps), between(2, 1e6), "steps",
                  "at each width of quant.widths below 32, on the same batches from the same state"));
  f.push_back(key("range_test.threshold", at(&R::range_test, &T::threshold), between(0, 1), "",
                  "accuracy: share of tokens that must be gained; plateau: part of the loss that must go"));
  f.push_back(key("range_test.plateau", at(&R::range_test, &T::plateau), between(0, 1), "",
                  "plateau only: max_bits is the first width after which the next one's last losses are lower by less "
                  "than this part"));
  f.push_back(key("range_test.target_bits", at(&R::range_test, &T::target_bits), width_or_zero(), "bits",
                  "accuracy only: max_bits is the highest width up to 4 bits above this; 0: the highest of all"));
  f.push_back(key("range_test.lr_factor", at(&R::range_test, &T::lr_factor), between(1e-6, 1e6), "",
                  "the test's learning rate is lr.peak times this, the same in all of its steps"));
}

}  // namespace qat::rules
