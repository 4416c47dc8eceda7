// Held-out perplexity: exp(sum of token NLL / tokens scored), every token after the first scored exactly once.
#pragma once

#include <cstdint>
#include <optional>

#include "dist/comm/communicator.h"
#include "dist/control/stop_poll.h"
#include "src/data/token_source.h"
#include "src/eval/eval_config.h"
#include "src/model/gpt2.h"

namespace qat {

struct HeldOutScore {
  double nll_sum = 0.0;  // natural logarithm, summed in double
  std::int64_t tokens = 0;
  double mean_nll() const;
  // Not finite if some token's likelihood is not a number: broken models do not look better by dropping windows.
  double perplexity() const;
};

// How many tokens of the held-out text are read. Throws kData for fewer than two: the first has nothing to be predicted
// from.
std::int64_t tokens_to_read(const TokenSource& tokens, const EvalConfig& config);

// Collective over `comm`: passes of config.batch_size windows are dealt to the ranks, and summed in order of windows,
// so that the score has the same bits on any number of ranks. `sequence_length`: tokens a window reads; `threads`:
// passes of this rank at the same time; `ranges`: calibrated ranges in place of those in force, or null. Nothing if
// `poll`, asked between passes, says stop.
std::optional<HeldOutScore> held_out_score(const Gpt2& model, const TokenSource& tokens, const PrecisionMap& precision,
                                           const EvalConfig& config, std::int64_t sequence_length, int threads,
                                           dist::Communicator& comm, dist::StopPoll& poll,
                                           const RangeTable* ranges = nullptr);

}  // namespace qat
