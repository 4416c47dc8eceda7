#include "src/report/text_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "src/report/numbers.h"

namespace qat {
namespace {

constexpr const char* kHeldOut = "held_out";

std::string of_tokens(std::int64_t count, std::int64_t tokens) {
  return fixed(100.0 * static_cast<double>(count) / static_cast<double>(tokens), 2);
}

std::vector<const WidthResult*> with_texts(const std::vector<WidthResult>& widths) {
  std::vector<const WidthResult*> rows;
  for (const WidthResult& width : widths)
    if (!width.texts.empty()) rows.push_back(&width);
  return rows;
}

// Windows are the same at all widths: "wikitext2: 283,287 tokens scored, windows of 1024 tokens, 512 apart".
std::vector<std::string> protocol_lines(const std::vector<WidthResult>& widths) {
  std::vector<std::string> lines;
  const auto rows = with_texts(widths);
  if (rows.empty()) return lines;
  for (const TextFigures& text : rows.front()->texts)
    if (text.error.empty())
      lines.push_back(fmt::format(
          "{}: {} tokens scored, by itself, in windows of {} tokens, {} apart{}", text.text, text.tokens_scored,
          text.window, text.stride,
          text.quick ? fmt::format("; quick: its beginning, mean loss at most {}", fixed(kQuickLossLimit, 0)) : ""));
  for (const WidthResult* row : rows)
    for (const TextFigures& text : row->texts) {
      const std::string reason = text.failure();
      const std::string line =
          text.error.empty() ? fmt::format("no perplexity of {} at {}: {}", text.text, bits_cells(*row)[0].text, reason)
                             : fmt::format("no perplexity of {}: {}", text.text, reason);
      if (!reason.empty() && std::find(lines.begin(), lines.end(), line) == lines.end()) lines.push_back(line);
      if (text.clamped())
        lines.push_back(fmt::format("{} at {}: the mean loss is above the limit", text.text, bits_cells(*row)[0].text));
    }
  return lines;
}

std::string joined(const std::vector<std::string>& lines, const char* before) {
  std::string text;
  for (const std::string& line : lines) text += before + line + "\n";
  return text;
}

}  // namespace

double TextFigures::mean_nll() const {
  return tokens_scored > 0 ? nll / static_cast<double>(tokens_scored) : std::numeric_limits<double>::quiet_NaN();
}

bool TextFigures::clamped() const { return quick && mean_nll() > kQuickLossLimit; }

std::optional<double> TextFigures::perplexity() const {
  if (!error.empty() || !std::isfinite(mean_nll())) return std::nullopt;
  const double value = std::exp(clamped() ? kQuickLossLimit : mean_nll());
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

std::string TextFigures::failure() const {
  if (!error.empty()) return error;
  if (!std::isfinite(mean_nll())) return "the loss is not finite";
  return perplexity() ? "" : "the perplexity is too large for a number";
}

bool has_texts(const std::vector<WidthResult>& widths) { return !with_texts(widths).empty(); }

Table perplexity_table(const std::vector<WidthResult>& widths) {
  std::vector<const WidthResult*> rows = with_texts(widths);
  const auto worth = [](const WidthResult* width) {
    const auto perplexity = width->texts.front().perplexity();
    return perplexity ? *perplexity : std::numeric_limits<double>::infinity();
  };
  std::stable_sort(rows.begin(), rows.end(),
                   [&](const WidthResult* a, const WidthResult* b) { return worth(a) < worth(b); });
  Table table({"Bits", "W", "A", "KV", "Size"});
  for (const WidthResult* width : rows) {
    std::vector<Table::Cell> cells = bits_cells(*width);
    cells.push_back({"Size", byte_size(width->size.total_bytes())});
    if (width->tokens_scored > 0) {
      const auto held_out = width->perplexity();
      cells.push_back({kHeldOut, held_out ? fixed(*held_out, 3) : ""});
    }
    for (const TextFigures& text : width->texts) {
      const auto perplexity = text.perplexity();
      cells.push_back({text.text, perplexity ? fixed(*perplexity, 3) : ""});
    }
    table.add_row(cells);
  }
  return table;
}

Table token_accuracy_table(const std::vector<WidthResult>& widths) {
  Table table({"Bits", "W", "A", "KV"});
  for (const WidthResult* width : with_texts(widths)) {
    std::vector<Table::Cell> cells = bits_cells(*width);
    const std::size_t none = cells.size();
    for (const TextFigures& text : width->texts)
      if (text.error.empty() && text.likeliest >= 0) {
        cells.push_back({text.text + " top-1", of_tokens(text.likeliest, text.tokens_scored)});
        cells.push_back({text.text + " top-5", of_tokens(text.in_top_5, text.tokens_scored)});
      }
    if (cells.size() > none) table.add_row(cells);
  }
  return table;
}

std::string text_tables_text(const std::vector<WidthResult>& widths) {
  if (!has_texts(widths)) return "";
  std::string text = "Perplexity\n" + perplexity_table(widths).ascii();
  if (const Table tokens = token_accuracy_table(widths); tokens.rows() > 0)
    text += "Tokens (%) that were the likeliest, and among the five likeliest\n" + tokens.ascii();
  return text + joined(protocol_lines(widths), "");
}

std::string text_tables_markdown(const std::vector<WidthResult>& widths) {
  if (!has_texts(widths)) return "";
  std::string text = "## Perplexity\n\n" + perplexity_table(widths).markdown() + "\n";
  if (const Table tokens = token_accuracy_table(widths); tokens.rows() > 0)
    text += "## Tokens (%) that were the likeliest, and among the five likeliest\n\n" + tokens.markdown() + "\n";
  return text + joined(protocol_lines(widths), "- ") + "\n";
}

std::string text_tables_latex(const std::vector<WidthResult>& widths) {
  if (!has_texts(widths)) return "";
  std::string text = "% Perplexity\n" + perplexity_table(widths).latex();
  if (const Table tokens = token_accuracy_table(widths); tokens.rows() > 0)
    text += "% Tokens (\\%) that were the likeliest, and among the five likeliest\n" + tokens.latex();
  return text;
}

Value perplexities_value(const std::vector<TextFigures>& texts) {
  Value all = Value::object();
  for (const TextFigures& text : texts) {
    const auto perplexity = text.perplexity();
    all.set(text.text, perplexity ? Value(*perplexity) : Value());
  }
  return all;
}

Value texts_value(const std::vector<TextFigures>& texts) {
  Value all = Value::object();
  for (const TextFigures& text : texts) {
    Value one = Value::object({{"file", text.file}});
    if (text.error.empty()) {
      const auto perplexity = text.perplexity();
      one.set("perplexity", perplexity ? Value(*perplexity) : Value());
      one.set("nll_per_token", text.mean_nll());
      one.set("tokens_scored", text.tokens_scored);
      one.set("window", text.window);
      one.set("stride", text.stride);
      if (text.likeliest >= 0) {
        const auto tokens = static_cast<double>(text.tokens_scored);
        one.set("token_accuracy", static_cast<double>(text.likeliest) / tokens);
        one.set("top_5_accuracy", static_cast<double>(text.in_top_5) / tokens);
      }
      if (text.quick) {
        one.set("quick", true);
        one.set("clamped", text.clamped());
      }
    }
    if (const std::string reason = text.failure(); !reason.empty()) one.set("error", reason);
    all.set(text.text, std::move(one));
  }
  return all;
}

}  // namespace qat
