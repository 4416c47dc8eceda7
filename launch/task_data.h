// What a run trains on and is evaluated on, by its task: texts as tokens, or questions on texts.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "launch/world.h"
#include "src/config/run_config.h"
#include "src/data/question_windows.h"
#include "src/data/sample_source.h"
#include "src/data/token_source.h"
#include "src/eval/held_out_set.h"
#include "src/train/trainer_options.h"

namespace qat::launch {

// What data.val names, opened on all ranks. Of `tokens` and `questions` there is the task's.
struct HeldOutData {
  std::unique_ptr<const TokenSource> tokens;
  std::unique_ptr<const QuestionWindows> questions;
  std::unique_ptr<const HeldOutSet> set;
};

// What data.train names.
struct TrainingData {
  std::unique_ptr<const TokenSource> tokens;
  std::unique_ptr<const QuestionWindows> questions;
  std::unique_ptr<const SampleSource> samples;
};

// Collective. What is wrong with the files of any rank, or different between the ranks, is thrown on all of them.
HeldOutData open_held_out(World& world, const RunConfig& config);
TrainingData open_training_data(World& world, const RunConfig& config);

// For the log: "1000 training tokens, 300 held out".
std::string describe(const TrainingData& train, const HeldOutData& val);

// On this rank: what check_before_training finds.
std::vector<std::string> check_data(const TrainerOptions& options, const Gpt2Config& model, const TrainingData& train,
                                    const HeldOutData& val);

}  // namespace qat::launch
