// What a model is judged by, while it trains and in the end: text that it predicts, or questions that it answers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/data/data_identity.h"
#include "src/eval/dealt_passes.h"
#include "src/eval/eval_config.h"

namespace qat {

// How well questions were answered (src/eval/answer_score.h).
struct AnswerScore {
  double exact_match = 0.0;          // percent of the questions
  double f1 = 0.0;                   // mean over the questions, percent
  std::vector<std::string> answers;  // of each question; "": the text does not answer it
};

// How many of the scored tokens were the likeliest, and among the five likeliest (src/eval/token_rank.h).
struct TokenRanks {
  std::int64_t likeliest = 0;
  std::int64_t in_top_5 = 0;
};

struct HeldOutScore {
  double nll_sum = 0.0;     // natural logarithm, summed in double
  std::int64_t tokens = 0;  // whose likelihood that is; of questions, windows
  std::optional<AnswerScore> answers;
  std::optional<TokenRanks> ranks = {};  // of text, where the job asks for them

  double mean_nll() const;
  // Not finite if some token's likelihood is not a number: broken models do not look better by dropping windows.
  double perplexity() const;
};

class HeldOutSet {
 public:
  virtual ~HeldOutSet() = default;

  // Collective over the job's ranks; the score has the same bits on any number of them. Nothing if the poll says stop.
  virtual std::optional<HeldOutScore> score(const EvaluationJob& job, const EvalConfig& config,
                                            std::int64_t sequence_length) const = 0;
  virtual SplitIdentity identity() const = 0;
  // For files: what was answered, where there are questions; else empty.
  virtual std::string predictions(const HeldOutScore&) const { return {}; }
  // The settings that a score depends on beside that, by their keys.
  virtual std::vector<Value::Member> settings(const EvalConfig& config) const = 0;
};

}  // namespace qat
