#include "src/report/robustness_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/report/numbers.h"

namespace qat {
namespace {

constexpr const char* kHeading = "Next tokens (%) that were the likeliest, with inputs disturbed";

constexpr std::array kColumns = {"Noise", "FGSM", "PGD", "Dropped", "Replaced"};
static_assert(kColumns.size() == kDisturbances);

std::string percent(double share) { return fixed(100.0 * share, 2); }

// How it was done; empty: nothing was.
std::string protocol_of(const std::vector<WidthResult>& widths) {
  for (const WidthResult& width : widths)
    if (width.robustness)
      return fmt::format(
          "{} tokens of the held-out text. Noise, FGSM and PGD ({} steps) move the values of embeddings by {}; {} % of "
          "the tokens are dropped or replaced. Gap: the clean less the worst, in points.\n",
          width.robustness->tokens, width.robustness->steps, width.robustness->epsilon,
          fixed(100.0 * width.robustness->rate, 1));
  return "";
}

}  // namespace

double RobustnessFigures::worst_accuracy() const { return share(*std::min_element(right.begin(), right.end())); }

std::optional<double> RobustnessFigures::ratio() const {
  if (clean == 0) return std::nullopt;
  return static_cast<double>(*std::min_element(right.begin(), right.end())) / static_cast<double>(clean);
}

Table robustness_table(const std::vector<WidthResult>& widths) {
  Table table({"Bits", "W", "A", "KV", "Clean"});
  for (const WidthResult& width : widths) {
    if (!width.robustness) continue;
    const RobustnessFigures& figures = *width.robustness;
    std::vector<Table::Cell> cells = bits_cells(width);
    cells.push_back({"Clean", percent(figures.clean_accuracy())});
    for (std::size_t i = 0; i < kDisturbances; ++i)
      cells.push_back({kColumns[i], percent(figures.accuracy(static_cast<Disturbance>(i)))});
    cells.push_back({"Gap", percent(figures.gap())});
    const auto ratio = figures.ratio();
    cells.push_back({"Worst/clean", ratio ? fixed(*ratio, 3) : ""});
    table.add_row(cells);
  }
  return table;
}

std::string robustness_text(const std::vector<WidthResult>& widths) {
  const std::string how = protocol_of(widths);
  return how.empty() ? "" : fmt::format("{}\n", kHeading) + robustness_table(widths).ascii() + how;
}

std::string robustness_markdown(const std::vector<WidthResult>& widths) {
  const std::string how = protocol_of(widths);
  return how.empty() ? ""
                     : fmt::format("## {}\n\n", kHeading) + robustness_table(widths).markdown() + "\n" + how + "\n";
}

std::string robustness_latex(const std::vector<WidthResult>& widths) {
  const std::string how = protocol_of(widths);
  return how.empty() ? "" : fmt::format("% {}: {}", kHeading, how) + robustness_table(widths).latex();
}

Value robustness_value(const RobustnessFigures& figures) {
  Value accuracies = Value::object();
  for (std::size_t i = 0; i < kDisturbances; ++i) {
    const auto one = static_cast<Disturbance>(i);
    accuracies.set(enum_name(one), figures.accuracy(one));
  }
  const auto ratio = figures.ratio();
  return Value::object({{"tokens", figures.tokens},
                        {"epsilon", figures.epsilon},
                        {"rate", figures.rate},
                        {"steps", figures.steps},
                        {"clean_accuracy", figures.clean_accuracy()},
                        {"accuracy", std::move(accuracies)},
                        {"worst_accuracy", figures.worst_accuracy()},
                        {"gap", figures.gap()},
                        {"ratio", ratio ? Value(*ratio) : Value()}});
}

std::vector<std::string> robustness_insights(const RobustnessFigures& figures) {
  constexpr double kStrong = 0.1, kModerate = 0.3, kTrain = 0.2;
  const double gap = figures.gap();
  std::vector<std::string> lines = {fmt::format("{} robustness, a gap of {} ({})",
                                                gap < kStrong     ? "strong"
                                                : gap < kModerate ? "moderate"
                                                                  : "weak",
                                                fixed(gap, 3),
                                                gap < kStrong     ? "below 0.1"
                                                : gap < kModerate ? "below 0.3"
                                                                  : "0.3 or more")};
  if (gap > kTrain)
    lines.push_back(fmt::format("the gap of {} is above 0.2: adversarial training is advised", fixed(gap, 3)));
  return lines;
}

}  // namespace qat
