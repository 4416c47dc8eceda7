#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "src/base/file.h"
#include "src/schedule/schedule_rules.h"
#include "src/train/on_root.h"
#include "src/train/state_snapshot.h"
#include "src/train/token_accuracy.h"
#include "src/train/trainer.h"

// The precision range test: before the first step of a run whose schedule waits for it, or alone.

namespace qat {
namespace {

constexpr const char* kFile = "range_test.json";

// Steps up to `end` at one width, all at the same learning rate.
TrainerOptions at_width(TrainerOptions options, int bits, std::int64_t end) {
  options.train.recipe = Recipe::kCpt;
  options.train.steps = end;
  options.precision.kind = ScheduleKind::kConstant;
  options.precision.unit = ScheduleUnit::kStep;
  options.precision.max_bits = bits;
  options.precision.static_after = options.precision.layer_offset = 0;
  options.lr.peak *= options.range_test.lr_factor;
  options.lr.warmup_steps = 0;
  options.lr.decay = LrDecay::kConstant;
  return options;
}

// What the gains are measured of: the first pass that trains.
const PrecisionMap& trained_map(const dist::StepPlan& plan, const std::vector<PrecisionMap>& maps) {
  const std::vector<dist::PassPlan>& passes = plan.updates.front().passes;
  return maps.at(std::find_if(passes.begin(), passes.end(), [](const auto& pass) { return pass.trains; })->map);
}

std::vector<int> quantized_widths(const QuantConfig& quant) {
  std::vector<int> widths = quant.widths;
  std::erase(widths, BitWidth::kFull);
  std::sort(widths.begin(), widths.end());
  return widths;
}

}  // namespace

std::optional<WidthTrial> Trainer::try_width(int bits) {
  const RangeTestConfig& config = options_.range_test;
  const std::int64_t steps = config.steps, ends = averaged_steps(steps), batch = options_.train.batch_size;
  const auto share = 1.0 / static_cast<double>(ends);
  const bool has_tokens = !parts_.model.config().answers_questions();
  const RunPosition start{.step = state_.step, .samples = state_.consumed_samples};
  const Coordinator coordinator(at_width(options_, bits, start.step + steps), parts_.samples.windows_per_epoch(),
                                start);
  WidthTrial trial{.bits = bits};
  if (!has_tokens) trial.accuracy_first = trial.accuracy_last = std::numeric_limits<double>::quiet_NaN();
  for (std::int64_t i = 0; i < steps; ++i) {
    if (parts_.board != nullptr) parts_.board->enter(dist::Section::kStep);
    const RunPosition position{.step = start.step + i, .samples = start.samples + i * batch};
    const dist::StepPlan plan = dist::exchange_step_plan(world(), coordinator.plan(position));
    const std::vector<PrecisionMap> maps = precision_of(plan.maps);
    for (const PrecisionMap& precision : maps)
      if (!calibrator_.before_step(precision, position.step, position.samples)) return std::nullopt;
    const bool first = i < ends, last = i >= steps - ends;
    if (has_tokens && (first || last)) {
      const std::optional<double> accuracy =
          token_accuracy(parts_.model, trained_map(plan, maps), parts_.samples, parts_.grid, poll_,
                         {.first_sample = plan.first_sample,
                          .batch_size = batch,
                          .micro_batch_size = runner_.micro_batch_size(),
                          .sequence_length = options_.data.sequence_length,
                          .seed = options_.run.seed});
      if (!accuracy) return std::nullopt;
      if (first) trial.accuracy_first += *accuracy * share;
      if (last) trial.accuracy_last += *accuracy * share;
    }
    if (running_ranges_.any()) running_ranges_.begin_step();
    const StepOutcome outcome =
        run_fitting([&](const StepOutcome& so_far) { return runner_.run(plan, maps, poll_, {}, so_far); });
    if (outcome.wire_error) check_wire(*outcome.wire_error);
    if (outcome.abandoned || outcome.stop != 0) return std::nullopt;
    if (running_ranges_.any())
      running_ranges_.end_step(outcome.skipped ? std::span<const PrecisionMap>() : std::span(maps));
    if (outcome.skipped || outcome.refused) ++trial.skipped;
    const double loss = outcome.updates.front().judged;
    if (first) trial.loss_first += loss * share;
    if (last) trial.loss_last += loss * share;
  }
  return trial;
}

std::optional<RangeTestResult> Trainer::test_range(const std::vector<int>& widths) {
  RangeTestResult result{.steps = options_.range_test.steps, .begin = state_.step, .trials = {}};
  parts_.log.info(fmt::format("precision range test: {} steps at each of {} widths", result.steps, widths.size()));
  // Its ranges are forgotten, and none of the run's records.
  calibrator_.set_on_report({});
  StateSnapshot before(parts_.model, runner_, parts_.grid);
  for (const int bits : widths) {
    if (!result.trials.empty()) before.restore();
    const std::optional<WidthTrial> trial = try_width(bits);
    if (!trial) break;
    result.trials.push_back(*trial);
    parts_.log.info(fmt::format("range test at {} bits: accuracy {:.4f} to {:.4f}, loss {:.4f} to {:.4f}", bits,
                                trial->accuracy_first, trial->accuracy_last, trial->loss_first, trial->loss_last));
  }
  before.finish();
  calibrator_.set_on_report([this](const CalibrationReport& report) { record_calibration(report); });
  if (result.trials.size() < widths.size()) return std::nullopt;
  choose_bounds(options_.range_test, result);
  // Rank 0's decision, whatever the others' arithmetic may have come to.
  result = range_test_from_json(dist::broadcast_string(world(), range_test_json(result)), "rank 0's range test");
  on_root(world(), "writing the range test's result", [&] {
    write_file_atomic(std::filesystem::path(options_.run.dir) / kFile, range_test_json(result, 2) + "\n");
  });
  return result;
}

RangeTestRun Trainer::run_range_test() {
  on_root(world(), "writing the configuration", [&] {
    const std::filesystem::path dir = options_.run.dir;
    // A run's folder keeps the run's.
    if (!std::filesystem::exists(dir / "metrics.jsonl"))
      write_file_atomic(dir / "config.json", options_.config_json + "\n");
  });
  RangeTestRun run{.result = {}, .signal = poll_.ask()};
  if (run.signal != 0) return run;
  run.result = test_range(quantized_widths(options_.quant));
  if (!run.result) run.signal = poll_.ask();
  return run;
}

int Trainer::settle_bounds() {
  PrecisionScheduleConfig& schedule = options_.precision;
  if (options_.train.recipe == Recipe::kCpt && waits_for_range_test(schedule)) {
    if (is_complete() && state_.range_test.empty()) return 0;  // nothing follows a schedule any more
    const bool measures = state_.range_test.empty();
    std::optional<RangeTestResult> result;
    if (measures) {
      std::vector<int> widths = quantized_widths(options_.quant);
      const PrecisionScheduleConfig widest = widest_bounds(schedule, widths);
      std::erase_if(widths, [&](int bits) { return bits < widest.min_bits || bits > widest.max_bits; });
      result = test_range(widths);
      if (!result) return poll_.ask();
      state_.range_test = range_test_json(*result);
      applied_.range_test = state_.range_test;
      std::istringstream lines(range_test_text(*result));
      for (std::string line; std::getline(lines, line);) parts_.log.info(line);
    } else {
      result = range_test_from_json(state_.range_test, "the checkpoint's range test");
    }
    if (result->min_bits == 0) throw dist::AgreedError(ErrorKind::kConfig, nothing_passed_text(*result));
    if (schedule.min_bits == kAutoBits) schedule.min_bits = result->min_bits;
    if (schedule.max_bits == kAutoBits) schedule.max_bits = std::max(result->max_bits, schedule.min_bits);
    parts_.log.info(fmt::format("precision bounds {} to {}, by the range test {} step {}", schedule.min_bits,
                                schedule.max_bits, measures ? "before" : "that the checkpoint has, before",
                                result->begin));
  }
  coordinator_.emplace(options_, parts_.samples.windows_per_epoch(),
                       RunPosition{.step = state_.step, .samples = state_.consumed_samples}, maps_);
  return 0;
}

}  // namespace qat
