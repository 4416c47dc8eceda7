#include "src/report/run_comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <numeric>
#include <span>
#include <utility>

#include "src/base/file.h"
#include "src/report/loss_figures.h"
#include "src/report/numbers.h"

namespace qat {
namespace {

// Perplexity at a width over the seeds of one schedule, in order of the runs.
struct Schedule {
  std::string name;
  bool is_static = false;
  std::vector<double> perplexities;
  double bitops = 0.0;  // mean

  double perplexity() const { return mean_of(perplexities); }
  std::string text() const {
    return perplexities.size() == 1 ? fixed(perplexity(), 3)
                                    : fmt::format("{} (deviation {} over {} seeds)", fixed(perplexity(), 3),
                                                  fixed(deviation_of(perplexities), 3), perplexities.size());
  }
};

std::vector<Schedule> schedules_of(const std::vector<ComparedRun>& runs, int bits) {
  std::vector<Schedule> schedules;
  std::vector<std::int64_t> counts;
  for (const ComparedRun& run : runs) {
    auto found =
        std::find_if(schedules.begin(), schedules.end(), [&](const auto& one) { return one.name == run.name; });
    if (found == schedules.end()) {
      found = schedules.insert(found, {.name = run.name, .is_static = run.is_static, .perplexities = {}});
      counts.push_back(0);
    }
    auto& count = counts[static_cast<std::size_t>(found - schedules.begin())];
    found->bitops += (run.bitops - found->bitops) / static_cast<double>(++count);
    const auto nll = run.nll.find(bits);
    found->perplexities.push_back(nll == run.nll.end() ? std::numeric_limits<double>::infinity()
                                                       : std::exp(nll->second));
  }
  return schedules;
}

const Schedule* best_of(const std::vector<Schedule>& schedules, bool only_static) {
  const Schedule* best = nullptr;
  for (const Schedule& one : schedules)
    if ((one.is_static || !only_static) && std::isfinite(one.perplexity()) &&
        (best == nullptr || one.perplexity() < best->perplexity()))
      best = &one;
  return best;
}

std::string percent_more(double value, double than) {
  const double percent = 100.0 * (value / than - 1.0);
  return fmt::format("{} % {}", fixed(std::abs(percent), 2), percent < 0.0 ? "lower" : "higher");
}

}  // namespace

double ComparedRun::stability() const {
  std::vector<double> values;
  for (const auto& [bits, value] : nll) values.push_back(value);
  return 1.0 / (1.0 + deviation_of(values));
}

ComparedRun read_run(const std::string& name, std::uint64_t seed, const std::filesystem::path& dir, bool is_static) {
  const std::filesystem::path report = dir / "report.json", metrics = dir / "metrics.jsonl";
  const Value value = parse_json(read_file(report, ErrorKind::kConfig), report.string());
  ComparedRun run{.name = name,
                  .seed = seed,
                  .dir = dir,
                  .steps = value.at("step").as_int(),
                  .bitops = value.at("bitops").as_double(),
                  .bitops_ratio = value.at("bitops_ratio").as_double(),
                  .nll = {},
                  .losses = {},
                  .is_static = is_static};
  for (const Value& width : value.at("widths").as_array())
    if (width.find("map") == nullptr && !width.at("nll_per_token").is_null())
      run.nll[static_cast<int>(width.at("bit_width").as_int())] = width.at("nll_per_token").as_double();
  std::ifstream lines(metrics);
  if (!lines) throw Error(ErrorKind::kConfig, metrics.string() + ": cannot be read: a finished run has it");
  std::vector<double> speeds;
  for (std::string line; std::getline(lines, line);) {
    const Value step = parse_json(line, metrics.string());
    if (!step.at("loss").is_null()) run.losses.push_back(step.at("loss").as_double());
    speeds.push_back(step.at("tokens_per_s").as_double());
  }
  if (!speeds.empty()) {
    const auto middle = speeds.begin() + std::ssize(speeds) / 2;
    std::nth_element(speeds.begin(), middle, speeds.end());
    run.tokens_per_s = *middle;
  }
  return run;
}

Table comparison_table(const std::vector<ComparedRun>& runs) {
  Table table({"Schedule", "Seed", "Steps"});
  const double most = runs.empty() ? 0.0 : runs.front().bitops;
  for (const ComparedRun& run : runs) {
    std::vector<Table::Cell> row = {
        {"Schedule", run.name}, {"Seed", std::to_string(run.seed)}, {"Steps", std::to_string(run.steps)}};
    for (const auto& [bits, nll] : run.nll) row.push_back({fmt::format("PPL {}", bits), fixed(std::exp(nll), 3)});
    const LossFigures loss = loss_figures(run.losses);
    row.insert(row.end(), {{"BitOps", fmt::format("{:.3e}", run.bitops)},
                           {"of the first", most > 0.0 ? fixed(100.0 * run.bitops / most, 1) + " %" : ""},
                           {"of 32 bits", fixed(100.0 * run.bitops_ratio, 2) + " %"},
                           {"Final loss", fixed(loss.mean, 4)},
                           {"Deviation", fixed(loss.deviation, 4)},
                           {"Settled after", loss.settled_after ? std::to_string(*loss.settled_after) : ""},
                           {"Stability", fixed(run.stability(), 4)},
                           {"Tokens/s", fixed(run.tokens_per_s, 0)}});
    table.add_row(row);
  }
  return table;
}

std::vector<std::string> comparison_findings(const std::vector<ComparedRun>& runs, int bits) {
  const std::vector<Schedule> schedules = schedules_of(runs, bits);
  const Schedule* best = best_of(schedules, /*only_static=*/false);
  const Schedule* best_static = best_of(schedules, /*only_static=*/true);
  if (best == nullptr) return {fmt::format("no run has a perplexity at {} bits", bits)};
  std::vector<std::string> lines = {
      fmt::format("lowest perplexity at {} bits: {}, {}", bits, best->name, best->text())};
  for (const Schedule& one : schedules)
    if (!one.is_static && best_static != nullptr && std::isfinite(one.perplexity()))
      lines.push_back(fmt::format("{} against the best static run ({}, {}): perplexity {} ({}), BitOps {}", one.name,
                                  best_static->name, best_static->text(),
                                  percent_more(one.perplexity(), best_static->perplexity()), one.text(),
                                  percent_more(one.bitops, best_static->bitops)));
  return lines;
}

Value comparison_json(const std::vector<ComparedRun>& runs, int bits) {
  Value rows = Value::array();
  for (const ComparedRun& run : runs) {
    Value perplexity = Value::object();
    for (const auto& [width, nll] : run.nll) perplexity.set(std::to_string(width), std::exp(nll));
    const LossFigures loss = loss_figures(run.losses);
    rows.push_back(Value::object({{"schedule", run.name},
                                  {"static", run.is_static},
                                  {"seed", std::to_string(run.seed)},
                                  {"dir", run.dir.string()},
                                  {"steps", run.steps},
                                  {"perplexity", std::move(perplexity)},
                                  {"bitops", run.bitops},
                                  {"bitops_ratio", run.bitops_ratio},
                                  {"final_loss", loss.mean},
                                  {"loss_deviation", loss.deviation},
                                  {"settled_after", loss.settled_after ? Value(*loss.settled_after) : Value()},
                                  {"stability", run.stability()},
                                  {"tokens_per_s", run.tokens_per_s}}));
  }
  return Value::object(
      {{"bits", bits}, {"runs", std::move(rows)}, {"findings", Value::array(comparison_findings(runs, bits))}});
}

}  // namespace qat
