// Questions that `qat_dist eval` lets a language model answer in its own words (src/eval/generated_answers.h).
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "launch/world.h"
#include "src/base/json.h"
#include "src/config/run_config.h"
#include "src/eval/generated_answers.h"
#include "src/eval/width_eval.h"
#include "src/report/final_report.h"

namespace qat::launch {

struct AnswerOptions {
  std::vector<std::string> squad;  // files as SQuAD's, globs allowed; together they are one task
  std::string trivia;              // a file as TriviaQA's
  std::string trivia_examples;     // another, of another split
  std::int64_t trivia_shots = 5;
  GeneratedAnswerOptions generated;

  bool any() const { return !squad.empty() || !trivia.empty(); }
};

// `options` lives as long as `app`.
void add_answer_options(CLI::App& app, AnswerOptions& options);

class AnswerEvaluation {
 public:
  // Collective. Opens the files on every rank, whose contents must be the same; a task whose files are not to be read
  // on some rank has no result. merges: as of open_text_tokenizer. Without options nothing is done here and below.
  AnswerEvaluation(World& world, const RunConfig& config, const std::string& merges, const AnswerOptions& options);

  // Collective. At every width in turn.
  void score(World& world, const Gpt2& model, const RunConfig& config, const std::vector<EvaluatedAt>& widths,
             const EvaluationRanges& ranges, int threads, dist::StopPoll& poll);

  // One line a task and width for people, and the figures for programs.
  void report(FinalReport& report) const;
  // The same lines, for the console.
  std::string table() const;
  // `dir`/answers_<task>_<width>.json.
  void write_predictions(const std::string& dir) const;
  // A task without a result makes the command fail, after everything else is written: throws an AgreedError, the same
  // on all ranks.
  void throw_missing() const;

 private:
  struct Task {
    std::string name;
    OpenQuestionSet questions;
  };
  struct Failed {
    std::string name, error;
  };
  struct Found {
    std::size_t task;
    EvaluatedAt at;
    GeneratedAnswers answers;
  };

  std::vector<Task> tasks_;
  std::vector<Failed> failed_;
  std::vector<Found> found_;
};

}  // namespace qat::launch
