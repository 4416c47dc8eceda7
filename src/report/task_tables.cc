#include "src/report/task_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "src/report/numbers.h"

namespace qat {
namespace {

constexpr std::array kRules = {ChoiceRule::kSum, ChoiceRule::kToken, ChoiceRule::kByte};

const char* title_of(ChoiceRule rule) {
  switch (rule) {
    case ChoiceRule::kSum:
      return "Accuracy (%) by the log-likelihood of the whole answer";
    case ChoiceRule::kToken:
      return "Accuracy (%) by the log-likelihood per token of the answer";
    case ChoiceRule::kByte:
      return "Accuracy (%) by the log-likelihood per byte of the answer";
  }
  return "";
}

std::string percent_text(const Proportion& right) {
  const auto error = right.standard_error();
  return fixed(100.0 * right.value(), 1) + (error ? " ±" + fixed(100.0 * *error, 1) : "");
}

Table table_of(const std::vector<WidthResult>& widths, ChoiceRule rule, const char* emphasis) {
  std::vector<const WidthResult*> rows;
  for (const WidthResult& width : widths)
    if (!width.tasks.empty()) rows.push_back(&width);
  const auto worth = [rule](const WidthResult* width) {
    const double mean = mean_accuracy(width->tasks, rule);
    return std::isfinite(mean) ? mean : -1.0;
  };
  std::stable_sort(rows.begin(), rows.end(),
                   [&](const WidthResult* a, const WidthResult* b) { return worth(a) > worth(b); });
  Table table({"Bits", "W", "A", "KV", "Size"});
  std::vector<std::vector<Table::Cell>> all;
  for (const WidthResult* width : rows) {
    std::vector<Table::Cell> cells = bits_cells(*width);
    cells.push_back({"Size", byte_size(width->size.total_bytes())});
    for (const TaskFigures& task : width->tasks)
      if (!task.has_groups) cells.push_back({task.task, task.error.empty() ? percent_text(task.by(rule)) : ""});
    const double mean = mean_accuracy(width->tasks, rule);
    cells.push_back({"Avg", std::isfinite(mean) ? emphasis + fixed(100.0 * mean, 1) + emphasis : ""});
    table.add_row(cells);
  }
  return table;
}

bool any_task(const std::vector<WidthResult>& widths, bool has_groups) {
  return std::any_of(widths.begin(), widths.end(), [&](const WidthResult& width) {
    return std::any_of(width.tasks.begin(), width.tasks.end(),
                       [&](const TaskFigures& task) { return task.has_groups == has_groups; });
  });
}

void add_category_cells(const TaskFigures& task, std::vector<Table::Cell>& cells) {
  double sum = 0.0;
  for (const GroupFigures& group : task.groups) {
    const Proportion& right = group.right[static_cast<std::size_t>(ChoiceRule::kSum)];
    cells.push_back({fmt::format("{} {}", task.task, group.name), percent_text(right)});
    sum += 100.0 * right.value();
  }
  const bool known = task.error.empty() && !task.groups.empty();
  cells.push_back({task.task + " Avg", known ? fixed(sum / static_cast<double>(task.groups.size()), 1) : ""});
}

constexpr const char* kCategoryTitle = "Few-shot accuracy (%) by category, and the plain mean over categories";

// "task: why", each once.
std::string failures(const std::vector<WidthResult>& widths, const char* before) {
  std::vector<std::string> lines;
  for (const WidthResult& width : widths)
    for (const TaskFigures& task : width.tasks)
      if (!task.error.empty()) lines.push_back(fmt::format("{}no result of {}: {}\n", before, task.task, task.error));
  std::string text;
  for (std::size_t i = 0; i < lines.size(); ++i)
    if (std::find(lines.begin(), lines.begin() + static_cast<std::ptrdiff_t>(i), lines[i]) ==
        lines.begin() + static_cast<std::ptrdiff_t>(i))
      text += lines[i];
  return text;
}

}  // namespace

double Proportion::value() const { return items > 0 ? static_cast<double>(right) / static_cast<double>(items) : NAN; }

std::optional<double> Proportion::standard_error() const {
  if (items < 2) return std::nullopt;
  return std::sqrt(value() * (1.0 - value()) / static_cast<double>(items - 1));
}

bool has_tasks(const std::vector<WidthResult>& widths) {
  return std::any_of(widths.begin(), widths.end(), [](const WidthResult& width) { return !width.tasks.empty(); });
}

double mean_accuracy(const std::vector<TaskFigures>& tasks, ChoiceRule rule) {
  double sum = 0.0, count = 0.0;
  for (const TaskFigures& task : tasks)
    if (task.error.empty() && !task.has_groups) sum += task.by(rule).value(), count += 1.0;
  return sum / count;
}

Table task_table(const std::vector<WidthResult>& widths, ChoiceRule rule) { return table_of(widths, rule, ""); }

Table category_table(const std::vector<WidthResult>& widths) {
  Table table({"Bits", "W", "A", "KV", "Size"});
  for (const WidthResult& width : widths) {
    std::vector<Table::Cell> cells = bits_cells(width);
    cells.push_back({"Size", byte_size(width.size.total_bytes())});
    const std::size_t none = cells.size();
    for (const TaskFigures& task : width.tasks)
      if (task.has_groups) add_category_cells(task, cells);
    if (cells.size() > none) table.add_row(cells);
  }
  return table;
}

std::string task_tables_text(const std::vector<WidthResult>& widths) {
  if (!has_tasks(widths)) return "";
  std::string text;
  if (any_task(widths, /*has_groups=*/false))
    for (const ChoiceRule rule : kRules)
      text += fmt::format("{}\n{}", title_of(rule), task_table(widths, rule).ascii());
  if (any_task(widths, /*has_groups=*/true))
    text += fmt::format("{}\n{}", kCategoryTitle, category_table(widths).ascii());
  return text + failures(widths, "");
}

std::string task_tables_markdown(const std::vector<WidthResult>& widths) {
  if (!has_tasks(widths)) return "";
  std::string text;
  if (any_task(widths, /*has_groups=*/false))
    for (const ChoiceRule rule : kRules)
      text += fmt::format("## {}\n\n{}\n", title_of(rule), table_of(widths, rule, "**").markdown());
  if (any_task(widths, /*has_groups=*/true))
    text += fmt::format("## {}\n\n{}\n", kCategoryTitle, category_table(widths).markdown());
  return text + failures(widths, "- ");
}

std::string task_tables_latex(const std::vector<WidthResult>& widths) {
  if (!has_tasks(widths)) return "";
  std::string text;
  const auto add = [&](std::string title, const Table& table) {
    title.insert(title.find('%'), "\\");
    text += fmt::format("% {}\n{}", title, table.latex());
  };
  if (any_task(widths, /*has_groups=*/false))
    for (const ChoiceRule rule : kRules) add(title_of(rule), task_table(widths, rule));
  if (any_task(widths, /*has_groups=*/true)) add(kCategoryTitle, category_table(widths));
  return text;
}

Value tasks_value(const std::vector<TaskFigures>& tasks) {
  Value all = Value::object();
  for (const TaskFigures& task : tasks) {
    Value one = Value::object({{"kind", task.kind}, {"file", task.file}});
    if (!task.error.empty()) {
      one.set("error", task.error);
    } else {
      one.set("items", task.by(ChoiceRule::kSum).items);
      for (const ChoiceRule rule : kRules) {
        const Proportion& right = task.by(rule);
        const std::string suffix = rule == ChoiceRule::kSum ? "" : fmt::format("_per_{}", enum_name(rule));
        one.set("accuracy" + suffix, right.value());
        const auto error = right.standard_error();
        one.set("standard_error" + suffix, error ? Value(*error) : Value());
      }
      Value groups = Value::object();
      for (const GroupFigures& group : task.groups) {
        const Proportion& right = group.right[static_cast<std::size_t>(ChoiceRule::kSum)];
        groups.set(group.name, Value::object({{"accuracy", right.value()}, {"items", right.items}}));
      }
      if (task.has_groups) one.set("categories", std::move(groups));
      one.set("truncated_contexts", task.truncated);
      one.set("merged_boundaries", task.merged);
    }
    all.set(task.task, std::move(one));
  }
  return all;
}

}  // namespace qat
