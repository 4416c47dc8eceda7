#include "src/eval/task_eval.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "kernels/common/error.h"
#include "src/base/json.h"

namespace qat {
namespace {

double score_of(const Choice& choice, const ScoredText& text, double log_likelihood, ChoiceRule rule) {
  switch (rule) {
    case ChoiceRule::kSum:
      return log_likelihood;
    case ChoiceRule::kToken:
      return log_likelihood / static_cast<double>(text.scored);
    case ChoiceRule::kByte:
      return log_likelihood / static_cast<double>(choice.bytes());
  }
  return log_likelihood;
}

std::string place_of(const ChoiceTask& task, const ChoiceItem& item) {
  return fmt::format("{}:{}", item.file.empty() ? task.file : item.file, item.line);
}

GroupFigures& group_of(TaskFigures& figures, const std::string& name) {
  for (GroupFigures& group : figures.groups)
    if (group.name == name) return group;
  return figures.groups.emplace_back(GroupFigures{.name = name});
}

}  // namespace

std::size_t likeliest(const ChoiceItem& item, std::span<const ScoredText> texts,
                      std::span<const double> log_likelihoods, ChoiceRule rule) {
  std::size_t best = 0;
  const auto score = [&](std::size_t i) { return score_of(item.choices[i], texts[i], log_likelihoods[i], rule); };
  for (std::size_t i = 1; i < item.choices.size(); ++i)
    if (score(i) > score(best)) best = i;
  return best;
}

void TaskSet::add(ChoiceTask task, const Tokenizer& tokenizer, std::int64_t most) {
  std::vector<ScoredText> texts;
  for (const ChoiceItem& item : task.items) {
    try {
      for (const Choice& choice : item.choices)
        texts.push_back(scored_text(tokenizer, choice.context, choice.text, most));
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("{}: {}", place_of(task, item), error.what()));
    }
  }
  first_.push_back(texts_.size());
  std::move(texts.begin(), texts.end(), std::back_inserter(texts_));
  tasks_.push_back(std::move(task));
}

void TaskSet::append(TaskSet other) {
  for (const std::size_t first : other.first_) first_.push_back(texts_.size() + first);
  std::move(other.texts_.begin(), other.texts_.end(), std::back_inserter(texts_));
  std::move(other.tasks_.begin(), other.tasks_.end(), std::back_inserter(tasks_));
}

TaskFigures TaskSet::figures_of(std::size_t index, std::span<const double> log_likelihoods) const {
  const ChoiceTask& task = tasks_[index];
  TaskFigures figures{.task = task.name, .kind = enum_name(task.kind), .file = task.file, .groups = {}, .error = {}};
  figures.has_groups = task.kind == ChoiceKind::kFewShot;
  std::size_t first = first_[index];
  for (const ChoiceItem& item : task.items) {
    const std::size_t count = item.choices.size();
    const auto texts = std::span(texts_).subspan(first, count);
    const auto found = log_likelihoods.subspan(first, count);
    for (const ScoredText& text : texts) figures.truncated += text.truncated, figures.merged += text.merged;
    if (!std::all_of(found.begin(), found.end(), [](double value) { return std::isfinite(value); })) {
      figures.error = fmt::format("a log-likelihood is not finite ({})", place_of(task, item));
      return figures;
    }
    for (const ChoiceRule rule : {ChoiceRule::kSum, ChoiceRule::kToken, ChoiceRule::kByte}) {
      const bool right = likeliest(item, texts, found, rule) == item.answer;
      const auto count_in = [&](ByRule& counts) {
        Proportion& one = counts[static_cast<std::size_t>(rule)];
        ++one.items;
        one.right += right ? 1 : 0;
      };
      count_in(figures.right);
      if (!item.group.empty()) count_in(group_of(figures, item.group).right);
    }
    first += count;
  }
  return figures;
}

std::vector<TaskFigures> TaskSet::figures(std::span<const double> log_likelihoods) const {
  QAT_CHECK(log_likelihoods.size() == texts_.size(), "every text has its log-likelihood");
  std::vector<TaskFigures> all;
  for (std::size_t task = 0; task < tasks_.size(); ++task) all.push_back(figures_of(task, log_likelihoods));
  return all;
}

std::string TaskSet::item_lines(std::span<const double> log_likelihoods, const std::string& bits) const {
  std::string lines;
  std::size_t text = 0;
  for (const ChoiceTask& task : tasks_)
    for (const ChoiceItem& item : task.items) {
      const std::size_t count = item.choices.size();
      Value::Array choices;
      for (std::size_t i = 0; i < count; ++i)
        choices.push_back(Value::object({{"context", item.choices[i].context},
                                         {"text", item.choices[i].text},
                                         {"tokens_scored", texts_[text + i].scored},
                                         {"tokens_read", texts_[text + i].inputs()},
                                         {"log_likelihood", log_likelihoods[text + i]}}));
      Value line = Value::object({{"task", task.name},
                                  {"file", item.file.empty() ? task.file : item.file},
                                  {"line", item.line},
                                  {"bits", bits},
                                  {"answer", item.answer},
                                  {"choices", Value::array(std::move(choices))}});
      for (const ChoiceRule rule : {ChoiceRule::kSum, ChoiceRule::kToken, ChoiceRule::kByte})
        line.set(fmt::format("likeliest_by_{}", enum_name(rule)),
                 likeliest(item, std::span(texts_).subspan(text, count), log_likelihoods.subspan(text, count), rule));
      lines += to_json(line) + "\n";
      text += count;
    }
  return lines;
}

}  // namespace qat
