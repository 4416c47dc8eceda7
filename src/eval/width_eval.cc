#include "src/eval/width_eval.h"

#include <algorithm>

namespace qat {

std::vector<int> evaluation_widths(const EvalConfig& config, const QuantConfig& quant) {
  std::vector<int> widths = config.bits.empty() ? quant.widths : config.bits;
  std::sort(widths.begin(), widths.end(), std::greater<>());
  widths.erase(std::unique(widths.begin(), widths.end()), widths.end());
  return widths;
}

PrecisionMap evaluation_precision(const Gpt2& model, const QuantConfig& quant, int bits) {
  return PrecisionMap::make(model.linear_names(), scheduled_precision(quant, bits), quant.overrides);
}

std::optional<std::vector<WidthScore>> score_widths(const Gpt2& model, const TokenSource& tokens,
                                                    const std::vector<int>& widths, const QuantConfig& quant,
                                                    const EvalConfig& config, std::int64_t sequence_length, int threads,
                                                    dist::Communicator& comm, dist::StopPoll& poll,
                                                    const EvaluationRanges& ranges) {
  std::vector<WidthScore> scores;
  for (const int bits : widths) {
    const auto own = ranges.find(bits);
    const auto score = held_out_score(model, tokens, evaluation_precision(model, quant, bits), config, sequence_length,
                                      threads, comm, poll, own == ranges.end() ? nullptr : &own->second);
    if (!score) return std::nullopt;
    scores.push_back({bits, *score});
  }
  return scores;
}

}  // namespace qat
