// Questions that a model answers by pointing at a part of their context, scored as SQuAD's programs score them.
#pragma once

#include "src/data/question_windows.h"
#include "src/eval/held_out_set.h"

namespace qat {

// A question's answer is the best one of its windows (best_span.h). Where the questions may have none (version 2.0), it
// is "" if a window's "no answer", the sum of place 0's logits, is higher than that by more than config.null_threshold
// in all of the windows: the lowest of them counts.
class HeldOutQuestions final : public HeldOutSet {
 public:
  // The windows outlive this.
  explicit HeldOutQuestions(const QuestionWindows& windows) : windows_(windows) {}

  // Passes of config.batch_size windows, as long as the longest of them.
  std::optional<HeldOutScore> score(const EvaluationJob& job, const EvalConfig& config,
                                    std::int64_t sequence_length) const override;
  SplitIdentity identity() const override { return windows_.identity(); }
  // {"question's id": "answer", ...}, as SQuAD's programs read it.
  std::string predictions(const HeldOutScore& score) const override;
  std::vector<Value::Member> settings(const EvalConfig& config) const override;

 private:
  const QuestionWindows& windows_;
};

}  // namespace qat
