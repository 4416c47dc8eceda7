// Held-out perplexity: exp(sum of token NLL / tokens scored), every token after the first scored exactly once.
#pragma once

#include <cstdint>
#include <optional>

#include "src/data/token_source.h"
#include "src/eval/held_out_set.h"

namespace qat {

// How many tokens of the held-out text are read. Throws kData for fewer than two: the first has nothing to be predicted
// from.
std::int64_t tokens_to_read(const TokenSource& tokens, const EvalConfig& config);

// Collective: passes of config.batch_size windows, whose NLL is summed in order of windows. `sequence_length`: tokens a
// window reads.
std::optional<HeldOutScore> held_out_score(const EvaluationJob& job, const TokenSource& tokens,
                                           const EvalConfig& config, std::int64_t sequence_length);

class HeldOutText final : public HeldOutSet {
 public:
  // The tokens outlive this.
  explicit HeldOutText(const TokenSource& tokens) : tokens_(tokens) {}

  std::optional<HeldOutScore> score(const EvaluationJob& job, const EvalConfig& config,
                                    std::int64_t sequence_length) const override {
    return held_out_score(job, tokens_, config, sequence_length);
  }
  SplitIdentity identity() const override { return identity_of(tokens_); }
  std::vector<Value::Member> settings(const EvalConfig& config) const override {
    return {{"eval.max_tokens", config.max_tokens}, {"eval.stride", config.stride}};
  }

 private:
  const TokenSource& tokens_;
};

}  // namespace qat
