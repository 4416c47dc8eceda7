// Tasks of several answers to choose from, at any width: what a model finds likeliest, and how often that is right.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/data/choice_task.h"
#include "src/eval/likelihood.h"
#include "src/report/task_figures.h"

namespace qat {

// All tasks of an evaluation, and their answers as tokens: those of a pass may be of several tasks.
class TaskSet {
 public:
  // Throws kData, naming file and line, for an answer that alone is more than `most` tokens, what the model reads.
  void add(ChoiceTask task, const Tokenizer& tokenizer, std::int64_t most);

  // The tasks of another set, after those that are here.
  void append(TaskSet other);

  const std::vector<ChoiceTask>& tasks() const { return tasks_; }
  // Of all tasks, items and answers in order.
  const std::vector<ScoredText>& texts() const { return texts_; }
  // Where a task's begin.
  std::size_t first_text(std::size_t task) const { return first_.at(task); }

  // log_likelihoods: of texts(). One that is not a finite number makes the task an error: nothing is left out.
  std::vector<TaskFigures> figures(std::span<const double> log_likelihoods) const;
  // A JSON line for every item, with what was read and how likely each answer was; `bits` says at which width.
  std::string item_lines(std::span<const double> log_likelihoods, const std::string& bits) const;

 private:
  TaskFigures figures_of(std::size_t task, std::span<const double> log_likelihoods) const;

  std::vector<ChoiceTask> tasks_;
  std::vector<std::size_t> first_;
  std::vector<ScoredText> texts_;
};

// The likeliest of an item's answers by a rule; of equal ones the first. texts and log_likelihoods: the item's.
std::size_t likeliest(const ChoiceItem& item, std::span<const ScoredText> texts,
                      std::span<const double> log_likelihoods, ChoiceRule rule);

}  // namespace qat
