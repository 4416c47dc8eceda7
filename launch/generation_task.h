// Prompts as texts, the texts that a model makes of them on all ranks, and what is said of them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "src/config/run_config.h"
#include "src/generate/generator.h"
#include "src/text/tokenizer.h"

namespace qat::launch {

// Who says so: the command, the run that trained the model, or nobody.
enum class TokenizerFrom : unsigned char { kCommand, kRun, kDefault };

// The tokenizer of data.tokenizer and data.merges. Throws Error(kConfig) if it has more ids than the model; or if it
// has fewer and may not be the one that the model was trained with: a run says nothing of what made its files of
// tokens.
std::unique_ptr<Tokenizer> open_generation_tokenizer(const RunConfig& config, TokenizerFrom from);

struct GenerationSettings {
  GenerateOptions options;       // without what follows from the tokenizer
  std::string stop;              // ends a text; empty: nothing does
  bool ignore_end = false;       // an end of text is a token like others
  std::int64_t batch_size = 32;  // prompts in a batch, in order
};

struct GenerationOutcome {
  std::vector<GeneratedText> texts;  // of each prompt
  GenerationWork work;               // of all ranks, their seconds added up
  double seconds = 0.0;              // of the slowest rank
  int workers = 1;                   // batches that were under way at the same time
};

class GenerationTask {
 public:
  // Throws Error(kConfig), naming the prompt, for one that is longer than the model takes. An empty prompt is an end of
  // text.
  GenerationTask(std::unique_ptr<Tokenizer> tokenizer, const Gpt2Config& model, const std::vector<std::string>& prompts,
                 GenerationSettings settings);
  GenerationTask(const GenerationTask&) = delete;
  GenerationTask& operator=(const GenerationTask&) = delete;

  // Collective: batches are dealt to the ranks in turn, and on a CPU each rank's to its threads. All ranks have all
  // texts, which do not depend on how many ranks there are.
  GenerationOutcome run(const Gpt2& model, const PrecisionMap& precision, int threads, dist::Communicator& comm) const;

  // For a person: each prompt with its text, then what it took.
  std::string report(const GenerationOutcome& outcome) const;
  // A JSON object a line: prompt, text, stop, prompt_tokens, tokens.
  std::string json_lines(const GenerationOutcome& outcome) const;

 private:
  std::string text_of(const GeneratedText& generated) const;
  bool has_stop(std::span<const int> tokens) const;

  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<std::string> texts_;  // of the prompts
  std::vector<Prompt> prompts_;
  GenerationSettings settings_;
};

}  // namespace qat::launch
