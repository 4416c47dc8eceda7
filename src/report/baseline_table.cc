#include "src/report/baseline_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "src/report/numbers.h"
#include "src/report/task_tables.h"

namespace qat {
namespace {

struct Change {
  std::string column;
  std::optional<double> value;  // nothing: one of the two is missing
  int digits = 3;
};

std::optional<double> difference(const std::optional<double>& value, const std::optional<double>& baseline) {
  return value && baseline ? std::optional(*value - *baseline) : std::nullopt;
}

std::vector<Change> text_changes(const WidthResult& width, const WidthResult& baseline) {
  std::vector<Change> changes;
  if (width.tokens_scored > 0 && !width.answers)
    changes.push_back({"held_out", difference(width.perplexity(), baseline.perplexity())});
  for (std::size_t i = 0; i < std::min(width.texts.size(), baseline.texts.size()); ++i)
    changes.push_back({width.texts[i].text, difference(width.texts[i].perplexity(), baseline.texts[i].perplexity())});
  return changes;
}

std::optional<double> accuracy(const TaskFigures& task) {
  return task.error.empty() ? std::optional(task.by(ChoiceRule::kSum).value()) : std::nullopt;
}

std::vector<Change> task_changes(const WidthResult& width, const WidthResult& baseline) {
  std::vector<Change> changes;
  for (std::size_t i = 0; i < std::min(width.tasks.size(), baseline.tasks.size()); ++i)
    changes.push_back({width.tasks[i].task, difference(accuracy(width.tasks[i]), accuracy(baseline.tasks[i])), 1});
  return changes;
}

std::optional<double> mean(const std::vector<TaskFigures>& tasks) {
  const double value = mean_accuracy(tasks, ChoiceRule::kSum);
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

std::string signed_text(double value, int digits) { return (value > 0.0 ? "+" : "") + fixed(value, digits); }

std::string title(const std::vector<WidthResult>& widths, std::size_t baseline) {
  return fmt::format("Change from {}: perplexity, and accuracy in points", bits_cells(widths[baseline])[0].text);
}

Value values(const std::vector<Change>& changes) {
  Value all = Value::object();
  for (const Change& change : changes) all.set(change.column, change.value ? Value(*change.value) : Value());
  return all;
}

}  // namespace

std::optional<std::size_t> baseline_of(const std::vector<WidthResult>& widths, const std::string& wanted) {
  if (widths.size() < 2) return std::nullopt;
  std::size_t most = 0;
  for (std::size_t i = 0; i < widths.size(); ++i) {
    if (bits_cells(widths[i])[0].text == (wanted.empty() ? "32" : wanted)) return i;
    if (widths[i].size.effective_bits > widths[most].size.effective_bits) most = i;
  }
  return wanted.empty() ? std::optional(most) : std::nullopt;
}

Table change_table(const std::vector<WidthResult>& widths, std::size_t baseline) {
  Table table({"Bits", "W", "A", "KV"});
  for (std::size_t i = 0; i < widths.size(); ++i) {
    if (i == baseline) continue;
    std::vector<Table::Cell> cells = bits_cells(widths[i]);
    for (const Change& change : text_changes(widths[i], widths[baseline]))
      cells.push_back({change.column, change.value ? signed_text(*change.value, change.digits) : ""});
    for (const Change& change : task_changes(widths[i], widths[baseline]))
      cells.push_back({change.column, change.value ? signed_text(100.0 * *change.value, change.digits) : ""});
    if (!widths[i].tasks.empty()) {
      const auto change = difference(mean(widths[i].tasks), mean(widths[baseline].tasks));
      cells.push_back({"Avg", change ? signed_text(100.0 * *change, 1) : ""});
    }
    table.add_row(cells);
  }
  return table;
}

std::string change_text(const std::vector<WidthResult>& widths, std::size_t baseline) {
  const Table table = change_table(widths, baseline);
  return table.columns() > 4 ? title(widths, baseline) + "\n" + table.ascii() : "";
}

std::string change_markdown(const std::vector<WidthResult>& widths, std::size_t baseline) {
  const Table table = change_table(widths, baseline);
  return table.columns() > 4 ? "## " + title(widths, baseline) + "\n\n" + table.markdown() + "\n" : "";
}

std::string change_latex(const std::vector<WidthResult>& widths, std::size_t baseline) {
  const Table table = change_table(widths, baseline);
  return table.columns() > 4 ? "% " + title(widths, baseline) + "\n" + table.latex() : "";
}

Value change_value(const WidthResult& width, const WidthResult& baseline) {
  const auto average = difference(mean(width.tasks), mean(baseline.tasks));
  return Value::object({{"baseline", bits_cells(baseline)[0].text},
                        {"perplexity", values(text_changes(width, baseline))},
                        {"zero_shot", values(task_changes(width, baseline))},
                        {"zero_shot_average", average ? Value(*average) : Value()}});
}

}  // namespace qat
