// The passes of an evaluation, dealt to the ranks: what each of them finds is a few numbers, which all ranks have in
// the end, in the order of the passes, so that whatever is made of them has the same bits on any number of ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "dist/control/stop_poll.h"
#include "dist/grid/process_grid.h"
#include "src/model/gpt2.h"

namespace qat {

// Who evaluates a model, and how.
struct EvaluationJob {
  const Gpt2& model;
  const PrecisionMap& precision;
  int threads = 1;  // passes of this rank at the same time; 1 on a grid of stages
  dist::Grid grid;  // of which the model is this rank's stage
  dist::StopPoll& poll;
  const RangeTable* ranges = nullptr;  // calibrated ranges in place of those in force, or null
  bool token_ranks = false;            // of text: also how many of its tokens were the likeliest
};

// Windows first .. first + count - 1 go through the model together.
struct EvaluationPass {
  std::size_t first = 0;
  std::size_t count = 0;
};

// Fills the numbers of one pass; called on several threads. On a grid of stages all of a replica make the pass, and the
// last one's numbers count. Where something cannot be read (kData), it throws after the pass, which the others wait
// for.
using ScorePass = std::function<void(std::size_t pass, const ForwardContext& context, std::span<double> numbers)>;

// Collective. Returns `numbers` numbers of each of `passes` passes. What a rank cannot read (kData) is thrown on all of
// them, as `what`. Nothing if the job's poll, asked between passes, says stop.
std::optional<std::vector<double>> run_dealt_passes(const EvaluationJob& job, std::size_t passes, std::size_t numbers,
                                                    std::string_view what, const ScorePass& score);

}  // namespace qat
