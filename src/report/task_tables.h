// How a model did at tasks, width by width, for people and for programs.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/report/final_report.h"
#include "src/report/table.h"

namespace qat {

bool has_tasks(const std::vector<WidthResult>& widths);

// The mean over the tasks that have figures, 0..1; not a number if none has.
double mean_accuracy(const std::vector<TaskFigures>& tasks, ChoiceRule rule);

// One row a width or map, the best mean first: percent right and its standard error, a column a task in the order of
// the results, and the mean. "-" where there are no figures. Tasks with categories are left to category_table.
Table task_table(const std::vector<WidthResult>& widths, ChoiceRule rule);

// The same of tasks whose items have categories: a column a category, and the plain mean over them.
Table category_table(const std::vector<WidthResult>& widths);

// All of these as text, Markdown and LaTeX, with what each is; empty without tasks.
std::string task_tables_text(const std::vector<WidthResult>& widths);
std::string task_tables_markdown(const std::vector<WidthResult>& widths);
std::string task_tables_latex(const std::vector<WidthResult>& widths);

// {"boolq": {"accuracy": .., ...}, ...}; a task without figures: {"error": ..}.
Value tasks_value(const std::vector<TaskFigures>& tasks);

}  // namespace qat
