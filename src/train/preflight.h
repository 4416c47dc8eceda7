// What would fail every rank, or only the end of a long run, found before a model is made.
#pragma once

#include <string>
#include <vector>

#include "src/data/question_windows.h"
#include "src/data/token_source.h"
#include "src/model/gpt2_config.h"
#include "src/train/trainer_options.h"

namespace qat {

// Throws what a run of these options on these tokens would fail with: training text too short for a sample, held-out
// text too short for a prediction, maps that do not fit the model, schedules that the run's epochs or steps cannot
// follow, splits of different ids. Returns doubts, for the log.
std::vector<std::string> check_before_training(const TrainerOptions& options, const Gpt2Config& model,
                                               const TokenSource& train, const TokenSource& val);
// The same for questions; a doubt is that both splits have some on the same texts.
std::vector<std::string> check_before_training(const TrainerOptions& options, const Gpt2Config& model,
                                               const QuestionWindows& train, const QuestionWindows& val);

}  // namespace qat
