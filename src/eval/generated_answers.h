// How well a language model answers questions in its own words: greedily, until the end of a line, at any width.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "src/data/open_questions.h"
#include "src/eval/dealt_passes.h"
#include "src/generate/generator.h"

namespace qat {

struct GeneratedAnswerOptions {
  std::int64_t max_new_tokens = 30;
  std::int64_t batch_size = 32;  // questions a pass
};

// What counts of what was said.
enum class AnswerRule : unsigned char {
  kWords,     // SQuAD's: the same words, and how many of them (src/eval/answer_score.h)
  kContains,  // TriviaQA's: one of the right answers is part of it, both normalized
};

struct GeneratedAnswers {
  std::vector<std::string> answers;  // of each question: the first line of what was said, without white space around it
  double exact_match = 0.0;          // percent; by kContains, of those that contain a right answer
  double f1 = 0.0;                   // percent; by kWords
  std::int64_t shortened = 0;        // questions whose context did not fit
};

// Questions as prompts of at most n_positions - max_new_tokens tokens, so that every answer has its room. Throws kData
// for one that does not fit, and kConfig for a model without so many positions.
class OpenQuestionSet {
 public:
  OpenQuestionSet(std::vector<OpenQuestion> questions, AnswerRule rule, std::shared_ptr<const Tokenizer> tokenizer,
                  std::int64_t n_positions, const GeneratedAnswerOptions& options);

  const std::vector<OpenQuestion>& questions() const { return questions_; }
  AnswerRule rule() const { return rule_; }

  // Collective. Each question is answered once, in passes of prompts of about the same length, which are the same on
  // any number of ranks, and so is what is found. Nothing if the poll says stop.
  std::optional<GeneratedAnswers> answer(const EvaluationJob& job) const;
  // {"question's id": "answer", ...}, as SQuAD's programs read it.
  std::string predictions(const GeneratedAnswers& found) const;

 private:
  std::string text_of(std::span<const double> numbers) const;

  std::vector<OpenQuestion> questions_;
  AnswerRule rule_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  GeneratedAnswerOptions options_;
  std::vector<Prompt> prompts_;  // in order of length; number: the question's index
  std::int64_t shortened_ = 0;
};

}  // namespace qat
