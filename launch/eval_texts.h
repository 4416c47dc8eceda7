// The texts that `qat_dist eval` was given beside the run's held-out one, each of which is scored by itself.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launch/world.h"
#include "src/config/run_config.h"
#include "src/data/token_source.h"
#include "src/eval/width_eval.h"
#include "src/report/task_figures.h"

namespace qat::launch {

struct TextOptions {
  std::vector<std::string> files;  // FILE, NAME=FILE or a glob: UTF-8 text, or tokens as a .bin file
  std::string merges;              // GPT-2's merges.txt; empty: data.tokenizer says
  std::int64_t tokens = 0;         // of each, from its beginning; 0: all
  bool quick = false;              // the beginning alone, and a loss of at most kQuickLossLimit
  bool token_accuracy = false;
};

struct OpenedText {
  std::string name, file;
  std::unique_ptr<TokenSource> tokens;  // there always
  std::string error;                    // why it cannot be used; empty: it can; the same on all ranks
};

// Collective. A file that cannot be used costs the others nothing.
std::vector<OpenedText> open_texts(World& world, const RunConfig& config, const TextOptions& options);

// Collective. The figures of every text, width by width, in windows of data.sequence_length tokens, eval.stride apart,
// whatever eval.max_tokens says of the held-out text; nothing if the poll says stop.
std::optional<std::vector<std::vector<TextFigures>>> score_texts(World& world, const Gpt2& model,
                                                                 const RunConfig& config,
                                                                 const std::vector<OpenedText>& texts,
                                                                 const std::vector<EvaluatedAt>& widths,
                                                                 const EvaluationRanges& ranges, int threads,
                                                                 const TextOptions& options, dist::StopPoll& poll);

}  // namespace qat::launch
