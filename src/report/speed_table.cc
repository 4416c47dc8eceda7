#include "src/report/speed_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "src/report/numbers.h"
#include "src/report/robustness_table.h"

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

constexpr const char* kLayerTimes = "Time of the layers: milliseconds a pass, and the share of all of them";

// A row of their table: the same layer of all blocks.
struct LayerTime {
  std::string layer;
  int count = 0;
  std::vector<Table::Cell> cells;  // of the widths
};

// "h.11.attn.c_attn" -> "attn.c_attn".
std::string in_any_block(const std::string& layer) {
  const std::size_t number = layer.starts_with("h.") ? layer.find('.', 2) : std::string::npos;
  return number == std::string::npos ? layer : layer.substr(number + 1);
}

void add_width(const std::string& width, const SpeedFigures& speed, std::vector<LayerTime>& rows) {
  std::map<std::string, double> sums;
  std::map<std::string, int> counts;
  double all = 0.0;
  for (const LayerSpeed& one : speed.layers) {
    const std::string name = in_any_block(one.layer);
    sums[name] += one.mean_ms, ++counts[name], all += one.mean_ms;
    if (std::none_of(rows.begin(), rows.end(), [&](const LayerTime& row) { return row.layer == name; }))
      rows.push_back({.layer = name});
  }
  for (LayerTime& row : rows) {
    const auto sum = sums.find(row.layer);
    if (sum == sums.end()) continue;
    row.count = std::max(row.count, counts[row.layer]);
    row.cells.push_back({width + ": ms", fixed(sum->second, 3)});
    row.cells.push_back({width + ": %", all > 0.0 ? fixed(100.0 * sum->second / all, 1) : ""});
  }
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

Table layer_time_table(const std::vector<WidthResult>& widths) {
  std::vector<LayerTime> rows;
  for (const WidthResult& width : widths)
    if (width.speed && !width.speed->layers.empty()) add_width(bits_cells(width)[0].text, *width.speed, rows);
  Table table({"Layers", "Of them"});
  for (const LayerTime& row : rows) {
    std::vector<Table::Cell> cells = {{"Layers", row.layer}, {"Of them", std::to_string(row.count)}};
    cells.insert(cells.end(), row.cells.begin(), row.cells.end());
    table.add_row(cells);
  }
  return table;
}

std::string speed_text(const std::vector<WidthResult>& widths) {
  if (!any_speed(widths)) return "";
  const Table layers = layer_time_table(widths);
  return "Speed\n" + speed_table(widths).ascii() + protocol(widths) +
         (layers.rows() > 0 ? std::string(kLayerTimes) + "\n" + layers.ascii() : "");
}

std::string speed_markdown(const std::vector<WidthResult>& widths) {
  if (!any_speed(widths)) return "";
  const Table layers = layer_time_table(widths);
  return "## Speed\n\n" + speed_table(widths).markdown() + "\n" + protocol(widths) + "\n" +
         (layers.rows() > 0 ? fmt::format("### {}\n\n{}\n", kLayerTimes, layers.markdown()) : "");
}

std::string speed_latex(const std::vector<WidthResult>& widths) {
  if (!any_speed(widths)) return "";
  const Table layers = layer_time_table(widths);
  return "% Speed: " + protocol(widths) + speed_table(widths).latex() +
         (layers.rows() > 0 ? fmt::format("% {}\n{}", kLayerTimes, layers.latex()) : "");
}

Value speed_value(const SpeedFigures& speed) {
  const double tokens = static_cast<double>(speed.batch * speed.length);
  Value value = Value::object({{"tokens_per_second", speed.tokens_per_second()},
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
  if (speed.layers.empty()) return value;
  Value layers = Value::array();
  for (const LayerSpeed& one : speed.layers)
    layers.push_back(
        Value::object({{"layer", one.layer}, {"mean_ms", one.mean_ms}, {"deviation_ms", one.deviation_ms}}));
  value.set("layers", std::move(layers));
  return value;
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
  if (width.robustness)
    for (std::string& line : robustness_insights(*width.robustness)) lines.push_back(std::move(line));
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
