#include "src/report/run_history.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <set>
#include <tuple>

#include "src/base/clock.h"
#include "src/base/file.h"
#include "src/report/json_lines.h"
#include "src/report/loss_figures.h"
#include "src/report/numbers.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

constexpr auto kSilence = std::chrono::minutes(2);  // status.json is written every second

double number(const Value& line, const char* key, double missing) {
  const Value* value = line.find(key);
  return value != nullptr && value->is_number() ? value->as_double() : missing;
}

std::int64_t integer(const Value& line, const char* key, std::int64_t missing) {
  const Value* value = line.find(key);
  return value != nullptr && value->is_int() ? value->as_int() : missing;
}

std::string text(const Value& line, const char* key) {
  const Value* value = line.find(key);
  return value != nullptr && value->is_string() ? value->as_string() : "";
}

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// "?" where a line does not say.
PrecisionName precision_of(const Value& line, const char* bits) {
  PrecisionName name{.bits = static_cast<int>(integer(line, bits, 0)), .map = text(line, "map")};
  if (name.bits == 0 && name.map.empty()) name.map = "?";
  if (!name.map.empty()) name.bits = 0;
  return name;
}

RecordedStep step_of(const Value& line) {
  RecordedStep step{.step = line.at("step").as_int(),
                    .loss = number(line, "loss", kNaN),
                    .lr = number(line, "lr", kNaN),
                    .grad_norm = number(line, "grad_norm", kNaN),
                    .tokens_per_s = number(line, "tokens_per_s", kNaN),
                    .seconds = number(line, "step_ms", 0.0) / 1e3,
                    .act_bits = static_cast<int>(integer(line, "act_bits", 32)),
                    .grad_bits = static_cast<int>(integer(line, "grad_bits", 32)),
                    .cycle = integer(line, "cycle", -1),
                    .tokens = integer(line, "tokens", 0),
                    .bitops_ratio = number(line, "bitops_ratio", kNaN)};
  if (const Value* memory = line.find("memory"); memory != nullptr && memory->is_object())
    step.memory_bytes = number(*memory, "reserved_bytes", number(*memory, "bytes", 0.0));
  if (const Value* skipped = line.find("skipped"); skipped != nullptr && skipped->is_bool())
    step.skipped = skipped->as_bool();
  if (const Value* passes = line.find("passes"); passes != nullptr && passes->is_array()) {
    for (const Value& pass : passes->as_array())
      if (pass.is_object() && pass.find("loss") != nullptr)
        step.losses.emplace_back(precision_of(pass, "weight_bits"), number(pass, "loss", kNaN));
  } else {
    step.losses.emplace_back(precision_of(line, "weight_bits"), step.loss);
  }
  return step;
}

RecordedEvaluation evaluation_of(const Value& line) {
  const auto given = [&](const char* key) {
    const double value = number(line, key, kNaN);
    return std::isfinite(value) ? std::optional(value) : std::nullopt;
  };
  return {.step = line.at("step").as_int(),
          .at = precision_of(line, "bits"),
          .loss = number(line, "nll", kNaN),
          .perplexity = given("perplexity"),
          .exact_match = given("exact_match"),
          .f1 = given("f1")};
}

// A file that may be missing, or be half written: null then.
Value json_or_null(const fs::path& path) {
  try {
    return fs::exists(path) ? parse_json(read_file(path, ErrorKind::kConfig), path.string()) : Value();
  } catch (const Error&) {
    return {};  // the report says what the other files say
  }
}

void read_status(const Value& status, RunHistory& run) {
  if (!status.is_object()) return;
  run.state = text(status, "state");
  run.what = text(status, "what");
  run.checkpoint = text(status, "checkpoint");
  // Texts of one form, in which later times are greater.
  run.last_sign = std::max(run.last_sign, text(status, "time"));
  if (run.state == "running" && run.last_sign < utc_time(std::chrono::system_clock::now() - kSilence))
    run.state = "not running";
}

std::string percent_of(std::int64_t done, std::int64_t all) {
  return fmt::format("{} of {} ({:.0f} %)", done, all, 100.0 * static_cast<double>(done) / static_cast<double>(all));
}

// "4 to 8 bits"; empty where there is none.
std::string range_test_text(const Value& test) {
  if (!test.is_object()) return "";
  const std::int64_t least = integer(test, "min_bits", 0), most = integer(test, "max_bits", 0);
  return least > 0 && most > 0 ? fmt::format("{} to {} bits", least, most) : "no width passes the threshold";
}

}  // namespace

bool operator<(const PrecisionName& a, const PrecisionName& b) {
  return std::tuple(!a.map.empty(), a.bits, a.map) < std::tuple(!b.map.empty(), b.bits, b.map);
}

std::vector<PrecisionName> RunHistory::precisions() const {
  std::set<PrecisionName> found;
  for (const RecordedStep& step : steps)
    for (const auto& [at, loss] : step.losses) found.insert(at);
  return {found.begin(), found.end()};
}

bool has_records(const fs::path& dir) {
  return fs::exists(dir / "metrics.jsonl") || fs::exists(dir / "range_test.json");
}

RunHistory read_run(const fs::path& dir) {
  if (!has_records(dir))
    throw Error(ErrorKind::kConfig, fmt::format("{} is no run folder: it has no metrics.jsonl, nor range_test.json; "
                                                "give what the run has as run.dir",
                                                dir.string()));
  RunHistory run{.dir = dir, .name = fs::weakly_canonical(dir).filename().string()};
  for_each_json_line(dir / "metrics.jsonl", [&](const Value& line) {
    run.steps.push_back(step_of(line));
    run.last_sign = text(line, "time");
  });
  for_each_json_line(dir / "eval.jsonl", [&](const Value& line) { run.evaluations.push_back(evaluation_of(line)); });
  for_each_json_line(dir / "layers.jsonl", [&](const Value& line) { run.layers.push_back(layer_record_of(line)); });
  run.config = json_or_null(dir / "config.json");
  if (run.config.is_object())
    if (const Value* train = run.config.find("train"); train != nullptr && train->is_object())
      run.total_steps = integer(*train, "steps", 0);
  run.range_test = json_or_null(dir / "range_test.json");
  read_status(json_or_null(dir / "status.json"), run);
  const Value report = json_or_null(dir / "report.json");
  // One of another step is of an earlier end of this run.
  if (report.is_object() && integer(report, "step", -1) == run.steps_done()) run.final = final_report_of(report);
  if (run.state.empty()) run.state = run.final ? "finished" : "not running";
  return run;
}

std::vector<std::pair<std::string, std::string>> run_facts(const RunHistory& run) {
  std::vector<std::pair<std::string, std::string>> facts;
  facts.emplace_back("state", run.state + (run.state == "not running" && !run.last_sign.empty()
                                               ? ": no sign of life since " + run.last_sign
                                               : ""));
  if (!run.what.empty()) facts.emplace_back("why", run.what);
  facts.emplace_back(
      "steps", run.total_steps > 0 ? percent_of(run.steps_done(), run.total_steps) : std::to_string(run.steps_done()));
  if (const std::string bounds = range_test_text(run.range_test); !bounds.empty())
    facts.emplace_back("precision range test", bounds);
  if (run.steps.empty()) return facts;
  std::int64_t tokens = 0, skipped = 0;
  double seconds = 0.0, memory = 0.0;
  std::vector<double> speeds, losses;
  for (const RecordedStep& step : run.steps) {
    if (std::isfinite(step.loss)) losses.push_back(step.loss);
    tokens += step.tokens;
    skipped += step.skipped ? 1 : 0;
    seconds += step.seconds;
    memory = std::max(memory, step.memory_bytes);
    if (std::isfinite(step.tokens_per_s)) speeds.push_back(step.tokens_per_s);
  }
  const bool all = static_cast<std::int64_t>(run.steps.size()) == run.steps_done();
  const std::string of = all ? "" : fmt::format(", of {} recorded steps", run.steps.size());
  facts.emplace_back("tokens", short_count(static_cast<double>(tokens)) + of);
  facts.emplace_back("steps skipped", std::to_string(skipped));
  facts.emplace_back("time in steps", duration(seconds) + of);
  if (!speeds.empty()) {
    const auto middle = speeds.begin() + static_cast<std::ptrdiff_t>(speeds.size() / 2);
    std::nth_element(speeds.begin(), middle, speeds.end());
    facts.emplace_back("tokens a second", short_count(*middle) + " (median)");
  }
  if (const LossFigures loss = loss_figures(losses); loss.steps > 0) {
    facts.emplace_back("training loss", fmt::format("{} ± {} over the last {} steps{}", fixed(loss.mean, 4),
                                                    fixed(loss.deviation, 4), loss.steps, all ? "" : " recorded"));
    if (losses.size() == static_cast<std::size_t>(run.steps_done()))
      facts.emplace_back("loss steady after step", loss.settled_after ? std::to_string(*loss.settled_after) : "-");
  }
  if (std::isfinite(run.steps.back().bitops_ratio))
    facts.emplace_back("training BitOps relative to 32 bits", fixed(run.steps.back().bitops_ratio, 4));
  if (memory > 0.0) facts.emplace_back("most memory of rank 0", byte_size(static_cast<std::int64_t>(memory)));
  if (!run.checkpoint.empty()) facts.emplace_back("newest checkpoint", run.checkpoint);
  return facts;
}

}  // namespace qat
