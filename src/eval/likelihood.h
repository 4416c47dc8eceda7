// How likely a model finds the ends of texts: what multiple-choice and few-shot tasks are decided by.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "src/data/scored_text.h"
#include "src/eval/dealt_passes.h"

namespace qat {

// Lengths of passes and numbers of scored tokens are rounded up to powers of two and the means between them (16, 24,
// 32, 48, ...), so that a few shapes serve all texts: kernels are chosen, and timed, once for each.
std::int64_t rounded_length(std::int64_t length);

// How texts go through a model. Equal inputs are one row, whatever is scored behind them: the answers "yes" and "no"
// cost one. A pass has rows of about one length, padded behind their ends: what comes later changes nothing before it,
// since attention is causal and ranges are a token's own, or calibrated.
struct LikelihoodPlan {
  struct Row {
    std::size_t first = 0, count = 0;  // texts with this input: order[first .. first + count - 1]
  };
  struct Pass {
    std::size_t first = 0, count = 0;  // rows
    std::int64_t length = 0;           // of each, with padding
  };
  std::vector<std::size_t> order;  // texts, longest inputs first
  std::vector<Row> rows;
  std::vector<Pass> passes;
  std::size_t most_texts = 0;  // of a pass
};

// A pass has as many rows as pass_tokens allows, at least one; most: tokens that the model reads. The plan is a
// function of the texts alone: ranks and threads do not change it.
LikelihoodPlan plan_likelihoods(std::span<const ScoredText> texts, std::int64_t pass_tokens, std::int64_t most);
// Every text in a pass of its own, without padding: for activations with one dynamic range for all tokens of a pass,
// which other texts and padding would change.
LikelihoodPlan plan_alone(std::span<const ScoredText> texts);

// Whether that is so at these widths.
bool shares_ranges(const QuantConfig& quant, const PrecisionMap& precision);

// Collective. Of each text the sum of its scored tokens' log-likelihoods, in double, in order of tokens; the same bits
// on any number of ranks. NaN stays NaN. Nothing if the job's poll says stop.
std::optional<std::vector<double>> log_likelihoods(const EvaluationJob& job, const QuantConfig& quant,
                                                   std::span<const ScoredText> texts, std::int64_t pass_tokens);

}  // namespace qat
