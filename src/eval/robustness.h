// How many next tokens a model still gets right while its inputs are disturbed (docs/evaluation.md, "Robustness").
#pragma once

#include <cstdint>
#include <optional>

#include "src/data/token_source.h"
#include "src/eval/dealt_passes.h"
#include "src/eval/eval_config.h"
#include "src/report/robustness_figures.h"

namespace qat {

struct RobustnessOptions {
  double epsilon = 0.01;        // how far a value of an embedding moves; above 0
  double rate = 0.1;            // share of tokens that are dropped, or replaced; 0 .. 1
  std::int64_t steps = 10;      // of pgd; above 0
  std::int64_t tokens = 10000;  // of the text's beginning that are scored; 0: all
  std::uint64_t seed = 1;       // of what is drawn
};

// Collective, on a language model in one piece. A position is right if the token that comes there, undisturbed, has the
// highest logit. Draws are functions of seed, window and place: the figures are the same on any number of ranks.
// Nothing if the job's poll says stop.
std::optional<RobustnessFigures> robustness(const EvaluationJob& job, const TokenSource& tokens,
                                            const EvalConfig& config, std::int64_t sequence_length,
                                            const RobustnessOptions& options);

}  // namespace qat
