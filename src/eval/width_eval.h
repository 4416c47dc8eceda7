// The same weights at every width that the run trains.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "src/eval/held_out_set.h"
#include "src/quant/quant_config.h"

namespace qat {

struct WidthScore {
  int bits = 32;
  HeldOutScore score;
};

// Calibrated ranges that an evaluation has of its own, by evaluated width: of layers that training has no range for, or
// one that it would take anew. Training never uses them.
using EvaluationRanges = std::map<int, RangeTable>;

// The widths to evaluate: config.bits, or every width of quant.widths; descending, so that a table starts with the
// best.
std::vector<int> evaluation_widths(const EvalConfig& config, const QuantConfig& quant);

// Widths of every linear layer when the model runs at `bits`: quant.activation_bits and overrides apply as in training.
PrecisionMap evaluation_precision(const Gpt2& model, const QuantConfig& quant, int bits);

// What was answered at each width: predictions_<bits>.json in `dir`. Nothing for text.
void write_predictions(const std::filesystem::path& dir, const HeldOutSet& held_out,
                       const std::vector<WidthScore>& scores);

// Collective. Nothing if `poll` says stop on the way.
std::optional<std::vector<WidthScore>> score_widths(const Gpt2& model, const HeldOutSet& held_out,
                                                    const std::vector<int>& widths, const QuantConfig& quant,
                                                    const EvalConfig& config, std::int64_t sequence_length, int threads,
                                                    dist::Communicator& comm, dist::StopPoll& poll,
                                                    const EvaluationRanges& ranges = {});

}  // namespace qat
