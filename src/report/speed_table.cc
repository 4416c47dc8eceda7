#include "src/report/speed_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/report/numbers.h"

namespace qat {
namespace {

constexpr double kMebibyte = 1 << 20;

double mebibytes(const WidthResult& width) { return static_cast<double>(width.size.total_bytes()) / kMebibyte; }

bool any_speed(const std::vector<WidthResult>& widths) {
  return std::any_of(widths.begin(), widths.end(), [](const WidthResult& width) { return width.speed.has_value(); });
}

std::string protocol(const std::vector<WidthResult>& widths) {
  const auto measured =
      std::find_if(widths.begin(), widths.end(), [](const WidthResult& width) { return width.speed.has_value(); });
  const SpeedFigures& speed = *measured->speed;
  return fmt::format(
      "Speed is of one rank, from tokens to the last token's logits, {} sequences of {} tokens a pass; {} "
      "passes after {} to warm up, each waited for.\n",
      speed.batch, speed.length, speed.passes, speed.warm_up);
}

}  // namespace

double SpeedFigures::tokens_per_second() const {
  return mean_ms > 0.0 ? 1e3 * static_cast<double>(batch * length) / mean_ms : 0.0;
}

std::optional<double> first_perplexity(const WidthResult& width) {
  if (const auto held_out = width.perplexity()) return held_out;
  for (const TextFigures& text : width.texts)
    if (const auto perplexity = text.perplexity()) return perplexity;
  return std::nullopt;
}

std::optional<double> efficiency(const WidthResult& width) {
  const auto perplexity = first_perplexity(width);
  if (!width.speed || !perplexity || mebibytes(width) <= 0.0) return std::nullopt;
  return width.speed->tokens_per_second() / (mebibytes(width) * std::max(*perplexity, 1.0));
}

Table speed_table(const std::vector<WidthResult>& widths) {
  Table table({"Bits", "W", "A", "KV", "Tokens/s", "ms/pass", "±", "p50", "p95", "p99"});
  for (const WidthResult& width : widths) {
    if (!width.speed) continue;
    const SpeedFigures& speed = *width.speed;
    std::vector<Table::Cell> cells = bits_cells(width);
    cells.push_back({"Tokens/s", fixed(speed.tokens_per_second(), 0)});
    cells.push_back({"ms/pass", fixed(speed.mean_ms, 3)});
    cells.push_back({"±", fixed(speed.deviation_ms, 3)});
    cells.push_back({"p50", fixed(speed.p50_ms, 3)});
    cells.push_back({"p95", fixed(speed.p95_ms, 3)});
    cells.push_back({"p99", fixed(speed.p99_ms, 3)});
    cells.push_back({"Peak memory", speed.peak_bytes > 0 ? byte_size(speed.peak_bytes) : ""});
    cells.push_back({"Size", byte_size(width.size.total_bytes())});
    cells.push_back({"KV cache", width.kv_bytes > 0 ? byte_size(width.kv_bytes) : ""});
    const auto worth = efficiency(width);
    cells.push_back({"Efficiency", worth ? fmt::format("{:.4g}", *worth) : ""});
    table.add_row(cells);
  }
  return table;
}

std::string speed_text(const std::vector<WidthResult>& widths) {
  return any_speed(widths) ? "Speed\n" + speed_table(widths).ascii() + protocol(widths) : "";
}

std::string speed_markdown(const std::vector<WidthResult>& widths) {
  return any_speed(widths) ? "## Speed\n\n" + speed_table(widths).markdown() + "\n" + protocol(widths) + "\n" : "";
}

std::string speed_latex(const std::vector<WidthResult>& widths) {
  return any_speed(widths) ? "% Speed: " + protocol(widths) + speed_table(widths).latex() : "";
}

Value speed_value(const SpeedFigures& speed) {
  const double tokens = static_cast<double>(speed.batch * speed.length);
  return Value::object({{"tokens_per_second", speed.tokens_per_second()},
                        {"ms_per_token", speed.mean_ms / tokens},
                        {"passes_per_second", 1e3 / speed.mean_ms},
                        {"batch", speed.batch},
                        {"length", speed.length},
                        {"passes", speed.passes},
                        {"warm_up", speed.warm_up},
                        {"mean_ms", speed.mean_ms},
                        {"deviation_ms", speed.deviation_ms},
                        {"least_ms", speed.least_ms},
                        {"most_ms", speed.most_ms},
                        {"p50_ms", speed.p50_ms},
                        {"p95_ms", speed.p95_ms},
                        {"p99_ms", speed.p99_ms},
                        {"peak_bytes", speed.peak_bytes > 0 ? Value(speed.peak_bytes) : Value()}});
}

std::vector<std::string> insights(const WidthResult& width) {
  std::vector<std::string> lines;
  constexpr double kEdge = 100.0, kServer = 500.0;     // MiB
  constexpr double kFast = 1000.0, kModerate = 100.0;  // tokens/s
  constexpr double kManyBits = 4.0, kHighPerplexity = 50.0;
  const double size = mebibytes(width);
  const double speed = width.speed ? width.speed->tokens_per_second() : 0.0;
  if (width.speed)
    lines.push_back(fmt::format("{} throughput, {} tokens/s ({})",
                                speed > kFast       ? "high"
                                : speed > kModerate ? "moderate"
                                                    : "low",
                                fixed(speed, 0),
                                speed > kFast       ? "above 1000"
                                : speed > kModerate ? "above 100"
                                                    : "at most 100"));
  if (size > 0.0)
    lines.push_back(fmt::format("{} MiB: {}", fixed(size, 1),
                                size < kEdge     ? "small enough for edge devices (below 100 MiB)"
                                : size < kServer ? "for servers (below 500 MiB)"
                                                 : "large (500 MiB or more)"));
  if (width.speed && size > 0.0 && size < kEdge)
    lines.emplace_back(speed > kModerate ? "fit for real-time use on edge devices (below 100 MiB, above 100 tokens/s)"
                                         : "fit for batch work on edge devices (below 100 MiB, at most 100 tokens/s)");
  if (const auto perplexity = first_perplexity(width); perplexity && *perplexity > kHighPerplexity)
    lines.push_back(fmt::format("perplexity {} is above 50: more training is advised", fixed(*perplexity, 1)));
  if (width.size.effective_bits > kManyBits)
    lines.push_back(fmt::format("{} bits a weight are above 4: lower widths are worth trying",
                                fixed(width.size.effective_bits, 2)));
  return lines;
}

std::vector<std::string> insights(const std::vector<WidthResult>& widths) {
  std::vector<std::string> lines;
  for (const WidthResult& width : widths)
    for (const std::string& line : insights(width))
      lines.push_back(fmt::format("{}: {}", bits_cells(width)[0].text, line));
  return lines;
}

}  // namespace qat
