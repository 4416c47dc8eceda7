#include "src/eval/width_eval.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <set>

#include "src/base/file.h"
#include "src/eval/prediction_file.h"

namespace qat {
std::string EvaluatedAt::name() const { return map.empty() ? std::to_string(bits) : parse_bitmap(map).name; }

std::string describe(const EvaluatedAt& at) { return at.map.empty() ? at.name() + " bits" : "map " + at.name(); }

std::vector<EvaluatedAt> evaluation_widths(const EvalConfig& config, const QuantConfig& quant) {
  auto [widths, maps] = evaluated_by(config, quant);
  std::sort(widths.begin(), widths.end(), std::greater<>());
  widths.erase(std::unique(widths.begin(), widths.end()), widths.end());
  std::vector<EvaluatedAt> all(widths.begin(), widths.end());
  for (const std::string& map : maps) all.emplace_back(map);
  return all;
}

PrecisionMap evaluation_precision(const Gpt2& model, const QuantConfig& quant, const EvaluatedAt& at) {
  if (!at.map.empty())
    return PrecisionMap::of_bitmap(model.linear_names(), parse_bitmap(at.map), model.config().bitmap_shape(), quant,
                                   BitWidth::kFull);
  return PrecisionMap::make(model.linear_names(), scheduled_precision(quant, at.bits), quant.overrides, quant.kv_bits);
}

void write_predictions(const std::filesystem::path& dir, const HeldOutSet& held_out,
                       const std::vector<WidthScore>& scores) {
  std::set<std::string> taken;
  for (const WidthScore& one : scores) {
    const std::string text = held_out.predictions(one.score);
    if (text.empty()) continue;
    const std::string name = file_name_of(one.at);
    std::string own = name;
    for (int n = 2; !taken.insert(own).second; ++n) own = fmt::format("{}_{}", name, n);
    write_file_atomic(dir / fmt::format("predictions_{}.json", own), text);
  }
}

std::optional<std::vector<WidthScore>> score_widths(const Gpt2& model, const HeldOutSet& held_out,
                                                    const std::vector<EvaluatedAt>& widths, const QuantConfig& quant,
                                                    const EvalConfig& config, std::int64_t sequence_length, int threads,
                                                    const dist::Grid& grid, dist::StopPoll& poll,
                                                    const EvaluationRanges& ranges) {
  std::vector<WidthScore> scores;
  for (const EvaluatedAt& at : widths) {
    const auto own = ranges.find(at);
    const PrecisionMap precision = evaluation_precision(model, quant, at);
    auto score = held_out.score({.model = model,
                                 .precision = precision,
                                 .threads = threads,
                                 .grid = grid,
                                 .poll = poll,
                                 .ranges = own == ranges.end() ? nullptr : &own->second},
                                config, sequence_length);
    if (!score) return std::nullopt;
    scores.push_back({at, *std::move(score)});
  }
  return scores;
}

}  // namespace qat
