// The same weights at every precision that the run trains.
#pragma once

#include <compare>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "src/eval/held_out_set.h"
#include "src/quant/quant_config.h"

namespace qat {

// What a model is evaluated at: one width, or a map of its layers' widths.
struct EvaluatedAt {
  EvaluatedAt(int width = 32) : bits(width) {}  // NOLINT(google-explicit-constructor): a width is what most are
  explicit EvaluatedAt(std::string text) : bits(0), map(std::move(text)) {}

  int bits;         // 0: a map
  std::string map;  // as written (src/bitmap/bitmap_text.h); empty: a width
  // What it is called in tables: "8", or the map's name.
  std::string name() const;
  friend auto operator<=>(const EvaluatedAt&, const EvaluatedAt&) = default;
};
// "8 bits", "map stripe8&4": for messages.
std::string describe(const EvaluatedAt& at);

struct WidthScore {
  EvaluatedAt at;
  HeldOutScore score;
};

// Calibrated ranges that an evaluation has of its own, by what is evaluated: of layers that training has no range for,
// or one that it would take anew. Training never uses them.
using EvaluationRanges = std::map<EvaluatedAt, RangeTable>;

// What to evaluate: config.bits, descending, so that a table starts with the best, then config.maps. Without either
// every map of quant.maps or, where there are none, every width of quant.widths.
std::vector<EvaluatedAt> evaluation_widths(const EvalConfig& config, const QuantConfig& quant);

// Widths of every linear layer when the model runs so: quant.activation_bits and overrides apply as in training.
PrecisionMap evaluation_precision(const Gpt2& model, const QuantConfig& quant, const EvaluatedAt& at);

// What was answered at each width or map: predictions_<bits>.json, predictions_<map>.json in `dir`; characters of a
// map's name that are no letter, digit, _ - or . become _. Nothing for text.
void write_predictions(const std::filesystem::path& dir, const HeldOutSet& held_out,
                       const std::vector<WidthScore>& scores);

// Collective. Nothing if `poll` says stop on the way.
std::optional<std::vector<WidthScore>> score_widths(const Gpt2& model, const HeldOutSet& held_out,
                                                    const std::vector<EvaluatedAt>& widths, const QuantConfig& quant,
                                                    const EvalConfig& config, std::int64_t sequence_length, int threads,
                                                    const dist::Grid& grid, dist::StopPoll& poll,
                                                    const EvaluationRanges& ranges = {});

}  // namespace qat
