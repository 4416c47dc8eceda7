#include "src/eval/width_eval.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/base/file.h"

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

void write_predictions(const std::filesystem::path& dir, const HeldOutSet& held_out,
                       const std::vector<WidthScore>& scores) {
  for (const WidthScore& one : scores)
    if (const std::string text = held_out.predictions(one.score); !text.empty())
      write_file_atomic(dir / fmt::format("predictions_{}.json", one.bits), text);
}

std::optional<std::vector<WidthScore>> score_widths(const Gpt2& model, const HeldOutSet& held_out,
                                                    const std::vector<int>& widths, const QuantConfig& quant,
                                                    const EvalConfig& config, std::int64_t sequence_length, int threads,
                                                    dist::Communicator& comm, dist::StopPoll& poll,
                                                    const EvaluationRanges& ranges) {
  std::vector<WidthScore> scores;
  for (const int bits : widths) {
    const auto own = ranges.find(bits);
    const PrecisionMap precision = evaluation_precision(model, quant, bits);
    auto score = held_out.score({.model = model,
                                 .precision = precision,
                                 .threads = threads,
                                 .comm = comm,
                                 .poll = poll,
                                 .ranges = own == ranges.end() ? nullptr : &own->second},
                                config, sequence_length);
    if (!score) return std::nullopt;
    scores.push_back({bits, *std::move(score)});
  }
  return scores;
}

}  // namespace qat
