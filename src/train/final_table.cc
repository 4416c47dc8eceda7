#include "src/train/final_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string_view>

#include "src/base/file.h"
#include "src/report/final_report.h"
#include "src/train/model_report.h"
#include "src/train/precision_usage.h"
#include "src/train/resume_check.h"

namespace qat {
namespace {

// The member of report.json that holds evaluation_settings().
constexpr char kSettings[] = "evaluation";

// What switching does to the loss, beside what it does from step to step anyway.
std::string impact_text(const PrecisionUsage& usage) {
  const auto text = [](const LossChanges& changes) {
    return fmt::format("{:+.4f} nats (absolute {:.4f}) in the mean of {}", changes.mean(), changes.mean_magnitude(),
                       changes.count);
  };
  return fmt::format("{}; between steps at the same: {}", text(usage.at_switches()), text(usage.at_steady()));
}

// Keys of these sections that say how an evaluation computes: all but what concerns training and calibration, which
// widths there are, and which parameters, without which no checkpoint loads.
constexpr std::string_view kComputing[] = {"quant", "lora"};
constexpr std::string_view kOfTraining[] = {"widths",
                                            "maps",
                                            "calibration_batches",
                                            "calibration_method",
                                            "calibration_percentile",
                                            "running_momentum",
                                            "recalibrate_every",
                                            "stochastic_gradients",
                                            "log_grad_clip",
                                            "rank",
                                            "slots"};

Value without_training(const Value& section) {
  Value kept = Value::object();
  for (const Value::Member& member : section.as_object())
    if (std::find(std::begin(kOfTraining), std::end(kOfTraining), member.key) == std::end(kOfTraining))
      kept.set(member.key, member.value);
  return kept;
}

// Reports of earlier programs say nothing of such a key.
bool is_unknown(const ConfigChange& change) {
  return (change.before.empty() || change.after.empty()) &&
         std::any_of(std::begin(kComputing), std::end(kComputing),
                     [&](std::string_view section) { return change.key.starts_with(section); });
}

}  // namespace

std::string evaluation_settings(const TrainerOptions& options, const HeldOutSet& held_out) {
  Value::Array bits, maps, files;
  for (const EvaluatedAt& at : evaluation_widths(options.eval, options.quant))
    at.map.empty() ? bits.emplace_back(at.bits) : maps.emplace_back(at.map);
  for (const SegmentIdentity& segment : held_out.identity())
    files.push_back(
        Value::object({{"tokens", segment.tokens}, {"content", fmt::format("{:016x}", segment.content.hash)}}));
  std::vector<Value::Member> settings = held_out.settings(options.eval);
  settings.insert(settings.end(), {{"eval.bits", Value::array(std::move(bits))},
                                   {"eval.batch_size", options.eval.batch_size},
                                   {"data.sequence_length", options.data.sequence_length},
                                   {"data.val", Value::array(std::move(files))}});
  // Reports without maps do not have it.
  if (!maps.empty()) settings.push_back({"eval.maps", Value::array(std::move(maps))});
  const Value config = parse_json(options.config_json, "the configuration");
  for (const std::string_view section : kComputing)
    if (const Value* found = config.find(section); found != nullptr)
      settings.push_back({std::string(section), without_training(*found)});
  return to_json(Value::object(std::move(settings)));
}

std::string evaluation_line(const WidthScore& score, std::int64_t step) {
  const HeldOutScore& found = score.score;
  const std::string at = describe(score.at);
  if (!found.answers)
    return fmt::format("held-out perplexity after step {} at {}: {:.3f}", step, at, found.perplexity());
  return fmt::format("held-out questions after step {} at {}: exact match {:.2f} %, F1 {:.2f} %, loss {:.4f}", step, at,
                     found.answers->exact_match, found.answers->f1, found.mean_nll());
}

Value evaluation_record(const WidthScore& score, std::int64_t step) {
  const HeldOutScore& found = score.score;
  Value record = Value::object({{"step", step}});
  score.at.map.empty() ? record.set("bits", score.at.bits) : record.set("map", score.at.name());
  record.set("nll", found.mean_nll());
  if (found.answers) {
    record.set("exact_match", found.answers->exact_match);
    record.set("f1", found.answers->f1);
    record.set("questions", found.answers->answers.size());
    record.set("windows", found.tokens);
  } else {
    record.set("perplexity", found.perplexity());
    record.set("tokens", found.tokens);
  }
  return record;
}

std::string write_final_table(const TrainerOptions& options, const Gpt2& model, const TrainState& state,
                              const BitopsTotal& bitops, const std::vector<WidthScore>& scores, const std::string& wire,
                              const std::string& checkpoint, const std::string& settings) {
  FinalReport report{.title = report_title(scores)};
  report.widths = width_results(model, options.quant, scores, options.data.sequence_length);
  report.summary = {{"steps", std::to_string(state.step)},
                    {"tokens trained on", std::to_string(state.consumed_tokens)},
                    {"steps skipped", std::to_string(state.skips_total)},
                    {"training BitOps relative to 32 bits", fmt::format("{:.4f}", bitops.ratio())},
                    {"checkpoint", checkpoint}};
  if (state.step < options.train.steps)
    report.summary.insert(report.summary.begin() + 1,
                          {"ended early", fmt::format("{} evaluations without a better held-out loss (eval.patience)",
                                                      state.stale_evaluations)});
  const PrecisionUsage usage = PrecisionUsage::from_text(state.precision_usage);
  if (const std::string passes = usage.passes_text(); !passes.empty()) {
    report.summary.emplace_back("passes by precision", passes);
    report.summary.emplace_back("multiply-accumulates by bits of weights", usage.macs_text());
  }
  if (usage.at_switches().count > 0)
    report.summary.emplace_back("loss change at a switch of precision", impact_text(usage));
  if (!wire.empty()) report.summary.emplace_back("gradients travelled as", wire);
  if (state.best_step >= 0)
    report.summary.emplace_back("lowest held-out loss during the run",
                                fmt::format("{:.4f} nats after step {}", state.best_loss, state.best_step));
  report.details = Value::object({{"step", state.step},
                                  {"tokens", state.consumed_tokens},
                                  {"skips", state.skips_total},
                                  {"bitops", bitops.spent},
                                  {"bitops_ratio", bitops.ratio()},
                                  {"precisions", usage.report()},
                                  {"checkpoint", checkpoint},
                                  {kSettings, parse_json(settings, kSettings)}});
  return write_final_report(options.run.dir, report);
}

ExistingTable existing_table(const std::filesystem::path& run_dir, std::int64_t step, const std::string& settings) {
  const std::filesystem::path text = run_dir / "report.md", data = run_dir / "report.json";
  if (!std::filesystem::exists(text) || !std::filesystem::exists(data)) return {};
  ExistingTable table{.text = read_file(text, ErrorKind::kConfig)};
  try {
    const Value report = parse_json(read_file(data, ErrorKind::kConfig), data.string());
    if (report.at("step").as_int() != step) return {};  // of an earlier end of this run
    const Value* made_with = report.find(kSettings);
    if (made_with == nullptr) {  // by an earlier program
      table.stale = "it does not say how it was made";
      return table;
    }
    for (const ConfigChange& change : config_changes(to_json(*made_with), settings))
      if (!is_unknown(change))
        table.stale +=
            fmt::format("{}{} was {}, is {}", table.stale.empty() ? "" : "; ", change.key, change.before, change.after);
  } catch (const Error& error) {
    table.stale = error.what();
  }
  return table;
}

}  // namespace qat
