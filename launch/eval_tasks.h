// The task files that `qat_dist eval` was given, opened on all ranks, and what a model makes of them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launch/world.h"
#include "src/config/run_config.h"
#include "src/eval/task_eval.h"
#include "src/eval/width_eval.h"

namespace qat::launch {

struct TaskOptions {
  std::vector<std::string> files;  // FILE, NAME=FILE, FOLDER or a glob
  PromptStyle style = PromptStyle::kHarness;
  std::int64_t limit = 0;             // items of a task, few-shot: of a subject; 0: all
  std::vector<std::string> few_shot;  // files of a few-shot task, one for each subject or all in one
  std::vector<std::string> examples;  // likewise, of another split
  std::int64_t shots = 5;             // examples before a question

  bool any() const { return !files.empty() || !few_shot.empty(); }
  std::int64_t tokens_of_pass(bool cuda) const {
    if (pass_tokens > 0) return pass_tokens;
    return cuda ? 65536 : 2048;
  }
  std::string merges;            // GPT-2's merges.txt; empty: data.tokenizer says
  std::int64_t pass_tokens = 0;  // of a pass; 0: what suits the device
};

// A task that could not be read, or that has a line which is not as it should be.
struct FailedTask {
  std::string name, file;
  bool has_groups = false;
  std::string error;
};

struct OpenedTasks {
  TaskSet set;
  std::vector<FailedTask> failed;  // the same on all ranks
};

// The tokenizer of a language model's texts. Throws Error(kConfig) if it is not of the model's vocabulary.
std::unique_ptr<Tokenizer> open_text_tokenizer(const RunConfig& config, const std::string& merges);

// Collective. A file that cannot be used is among the failed ones, and costs the others nothing; that there is no file
// of a name, or that a model or tokenizer does not suit tasks, is thrown on all ranks.
OpenedTasks open_tasks(World& world, const RunConfig& config, const TaskOptions& options);

// Collective. The log-likelihoods of every text of the set, width by width; nothing if the poll says stop.
std::optional<std::vector<std::vector<double>>> score_tasks(World& world, const Gpt2& model, const RunConfig& config,
                                                            const TaskSet& tasks,
                                                            const std::vector<EvaluatedAt>& widths,
                                                            const EvaluationRanges& ranges, int threads,
                                                            const TaskOptions& options, dist::StopPoll& poll);

// Those of one width, and the failed ones.
std::vector<TaskFigures> task_figures(const OpenedTasks& tasks, const std::vector<double>& log_likelihoods);

}  // namespace qat::launch
