// What `qat_dist eval` finds beside the held-out text's perplexity: tasks (launch/eval_tasks.h), texts
// (launch/eval_texts.h), and how fast passes are.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/eval_tasks.h"
#include "launch/eval_texts.h"
#include "launch/reference_check.h"
#include "src/report/diagnosis.h"
#include "src/report/final_report.h"
#include "src/train/pass_speed.h"

namespace qat::launch {

// Of a report that is of more than held-out text, or of other things.
inline constexpr char kEvaluationTitle[] = "Evaluation by bit width";

struct ExtraOptions {
  TaskOptions tasks;
  TextOptions texts;
  std::string prompts = enum_name(PromptStyle::kHarness);
  std::string items;          // file for the items' log-likelihoods; empty: none
  bool held_out = false;      // the held-out text as well
  bool speed = false;         // measure it
  SpeedOptions passes;        // how; length 0: data.sequence_length
  bool speed_layers = false;  // and of each layer
  std::string baseline;       // what others are compared with
  bool insights = false;
  bool diagnose = false;  // look at logits and adapters, on the held-out text
  std::string reference;  // with diagnose: a checkpoint that parameters are compared with; empty: none

  bool any() const { return tasks.any() || !texts.files.empty(); }
};

// `options` lives as long as `app`.
void add_extra_options(CLI::App& app, ExtraOptions& options);

class ExtraEvaluations {
 public:
  // Collective: opens all files. The options outlive this.
  ExtraEvaluations(World& world, const RunConfig& config, ExtraOptions& options);

  // Collective.
  void score(World& world, const Gpt2& model, const RunConfig& config, const std::vector<EvaluatedAt>& widths,
             const EvaluationRanges& ranges, int threads, dist::StopPoll& poll);

  // Collective: rank 0 looks at logits and adapters. held_out: text, whose beginning is read.
  void diagnose_on(World& world, Gpt2& model, const RunConfig& config, const EvaluationRanges& ranges,
                   const TokenSource* held_out);

  // Puts what was found into the results of the same widths, and facts into the report.
  void report(FinalReport& report) const;
  // What diagnose_on found, for people; with an output folder also diagnosis.txt and diagnosis.json there. One rank's
  // work, after report().
  std::string write_diagnosis(const std::string& output, const std::vector<WidthResult>& widths) const;
  // One rank's work.
  void write_items() const;
  // What is without a result makes the command fail, after everything else is written: throws an AgreedError, the same
  // on all ranks.
  void throw_missing() const;

 private:
  void measure(World& world, const Gpt2& model, const RunConfig& config, const EvaluationRanges& ranges);

  const ExtraOptions& options_;
  OpenedTasks tasks_;
  std::vector<OpenedText> texts_;
  std::vector<EvaluatedAt> widths_;
  std::vector<std::vector<double>> likelihoods_;      // of the tasks' texts, by width
  std::vector<std::vector<TaskFigures>> task_found_;  // by width
  std::vector<std::vector<TextFigures>> text_found_;
  std::vector<SpeedFigures> speeds_;    // by width, rank 0's; empty: not measured
  std::vector<std::int64_t> kv_bytes_;  // by width
  std::vector<Diagnosis> diagnoses_;    // by width, rank 0's
  std::string reference_folder_;        // rank 0's, as is the next
  std::optional<ReferenceCheck> reference_;
};

}  // namespace qat::launch
