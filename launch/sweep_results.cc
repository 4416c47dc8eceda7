#include "launch/sweep_results.h"

#include <fmt/format.h>

#include <filesystem>
#include <set>

#include "src/base/file.h"
#include "src/report/numbers.h"

namespace qat::launch {
namespace {

// Nothing where the file is not there, or not (yet) whole.
std::optional<Value> json_of(const std::filesystem::path& path) {
  try {
    return parse_json(read_file(path), path.string(), ErrorKind::kData);
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::optional<double> last_loss(const std::filesystem::path& metrics) {
  std::string text;
  try {
    text = read_file(metrics);
  } catch (const Error&) {
    return std::nullopt;
  }
  while (!text.empty()) {
    if (text.back() == '\n') text.pop_back();
    const std::size_t begin = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
    try {
      const Value line = parse_json(std::string_view(text).substr(begin), metrics.string(), ErrorKind::kData);
      if (const Value* loss = line.find("loss"); loss != nullptr && loss->is_number()) return loss->as_double();
    } catch (const Error&) {  // cut short
    }
    text.resize(begin);
  }
  return std::nullopt;
}

// Of report.json's rows.
void read_figures(const Value& report, std::map<std::string, double>& figures) {
  for (const Value& row : report.at("widths").as_array()) {
    const Value* const map = row.find("map");
    const std::string at =
        map != nullptr && map->is_string() ? map->as_string() : std::to_string(row.at("bit_width").as_int());
    const Value* const perplexity = row.find("perplexity");
    if (perplexity != nullptr && perplexity->is_object()) {
      const Value* const value = perplexity->find("held_out");
      if (value != nullptr && value->is_number()) figures["perplexity at " + at] = value->as_double();
    }
    for (const auto& [key, name] : {std::pair{"exact_match", "exact match at "}, {"f1", "F1 at "}})
      if (const Value* value = row.find(key); value != nullptr && value->is_number())
        figures[name + at] = value->as_double();
  }
}

// Of all results, each once.
std::vector<std::string> figure_names(const std::vector<SweepResult>& results) {
  std::set<std::string> names;
  for (const SweepResult& result : results)
    for (const auto& [name, value] : result.figures) names.insert(name);
  return {names.begin(), names.end()};
}

}  // namespace

SweepResult result_of(const SweepRun& run) {
  SweepResult result;
  const std::optional<Value> status = json_of(run.dir / "status.json");
  if (!status) return result;
  result.state = status->at("state").as_string();
  if (const Value* step = status->find("last_step"); step != nullptr && step->is_int()) result.steps = step->as_int();
  result.loss = last_loss(run.dir / "metrics.jsonl");
  if (result.state != "finished") return result;
  if (const std::optional<Value> report = json_of(run.dir / "report.json")) read_figures(*report, result.figures);
  return result;
}

std::vector<SweepResult> sweep_results(const SweepPlan& sweep) {
  std::vector<SweepResult> results;
  for (const SweepRun& run : sweep.runs) results.push_back(result_of(run));
  return results;
}

Table sweep_table(const SweepPlan& sweep, const std::vector<SweepResult>& results) {
  std::vector<std::string> columns = sweep.keys;
  columns.insert(columns.end(), {"state", "steps", "loss"});
  const std::vector<std::string> figures = figure_names(results);
  columns.insert(columns.end(), figures.begin(), figures.end());
  Table table(columns);
  for (std::size_t i = 0; i < results.size(); ++i) {
    const SweepResult& result = results[i];
    std::vector<Table::Cell> cells;
    for (const auto& [key, value] : sweep.runs[i].values) cells.push_back({key, value});
    cells.push_back({"state", result.state});
    if (result.steps) cells.push_back({"steps", std::to_string(*result.steps)});
    if (result.loss) cells.push_back({"loss", fixed(*result.loss, 4)});
    for (const auto& [name, value] : result.figures) cells.push_back({name, fixed(value, 3)});
    table.add_row(cells);
  }
  return table;
}

Value sweep_value(const SweepPlan& sweep, const std::vector<SweepResult>& results) {
  Value runs = Value::array();
  for (std::size_t i = 0; i < results.size(); ++i) {
    const SweepResult& result = results[i];
    Value set = Value::object(), figures = Value::object();
    for (const auto& [key, value] : sweep.runs[i].values) set.set(key, value);
    for (const auto& [name, value] : result.figures) figures.set(name, value);
    runs.push_back(Value::object({{"name", sweep.runs[i].name},
                                  {"dir", sweep.runs[i].dir.string()},
                                  {"set", set},
                                  {"state", result.state},
                                  {"steps", result.steps ? Value(*result.steps) : Value()},
                                  {"loss", result.loss ? Value(*result.loss) : Value()},
                                  {"figures", figures}}));
  }
  return Value::object({{"config", sweep.config.string()}, {"runs", runs}});
}

}  // namespace qat::launch
