#include "src/report/final_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "src/base/file.h"
#include "src/report/numbers.h"

namespace qat {
namespace {

std::string width_name(int bits) { return bits >= 32 ? "32" : std::to_string(bits); }

std::string range_text(const BitsRange& bits) {
  return bits.least == bits.most ? width_name(bits.most) : fmt::format("{}..{}", bits.least, bits.most);
}

std::string row_name(const WidthResult& width) {
  return width.map ? "map " + width.map->name : width_name(width.weight_bits) + " bits";
}

Value to_value(const BitsRange& bits) { return Value::array(std::vector{bits.least, bits.most}); }

// Lines "4 bits: reason" for the widths that have no perplexity.
std::string failures(const std::vector<WidthResult>& widths, const char* before) {
  std::string text;
  for (const WidthResult& width : widths) {
    const std::string reason = width.failure();
    if (!reason.empty()) text += fmt::format("{}{}: {}\n", before, row_name(width), reason);
  }
  return text;
}

Value to_value(const WidthResult& width) {
  const std::optional<double> perplexity = width.perplexity();
  const bool scored = width.tokens_scored > 0;
  Value object =
      Value::object({{"bit_width", width.weight_bits},
                     {"activation_bits", width.activation_bits},
                     {"perplexity", Value::object({{"held_out", perplexity ? Value(*perplexity) : Value()}})},
                     {"nll", scored ? Value(width.nll) : Value()},  // the writer makes null of what is not finite
                     {"nll_per_token", scored ? Value(width.nll / static_cast<double>(width.tokens_scored)) : Value()},
                     {"tokens_scored", width.tokens_scored},
                     {"model_size_gb", static_cast<double>(width.size.total_bytes()) / 1e9},
                     {"model_size_bytes", width.size.total_bytes()},
                     {"linear_bytes", width.size.linear_bytes},
                     {"adapter_bytes", width.size.adapter_bytes},
                     {"other_bytes", width.size.other_bytes},
                     {"effective_bits", width.size.effective_bits},
                     {"compression_ratio", width.size.compression()},
                     {"forward_bitops_ratio", width.forward_bitops_ratio}});
  if (width.map) {
    object.set("map", width.map->name);
    object.set("weight_bits_range", to_value(width.map->weights));
    object.set("activation_bits_range", to_value(width.map->activations));
    object.set("kv_bits_range", to_value(width.map->kv));
  }
  const std::string reason = width.failure();
  if (!reason.empty()) object.set("error", reason);
  return object;
}

}  // namespace

std::optional<double> WidthResult::perplexity() const {
  if (!error.empty() || tokens_scored <= 0) return std::nullopt;
  const double value = std::exp(nll / static_cast<double>(tokens_scored));
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

std::string WidthResult::failure() const {
  if (!error.empty()) return error;
  if (tokens_scored <= 0) return "no tokens were scored";
  if (!std::isfinite(nll)) return "the loss is not finite";
  if (!perplexity()) return "the perplexity is too large for a number";
  return "";
}

Table width_table(const std::vector<WidthResult>& widths) {
  const bool maps =
      std::any_of(widths.begin(), widths.end(), [](const WidthResult& one) { return one.map.has_value(); });
  std::vector<std::string> columns = {"Bits W", "Bits A",        "Perplexity",  "NLL/token",   "Tokens",
                                      "Size",   "Linear layers", "Bits/weight", "Compression", "Forward BitOps"};
  if (maps) columns.insert(columns.begin(), "Map"), columns.insert(columns.begin() + 3, "Bits KV");
  Table table(columns);
  for (const WidthResult& width : widths) {
    const std::optional<double> perplexity = width.perplexity();
    const bool scored = width.tokens_scored > 0 && std::isfinite(width.nll);
    const BitsRange w = width.map ? width.map->weights : BitsRange{width.weight_bits, width.weight_bits};
    const BitsRange a = width.map ? width.map->activations : BitsRange{width.activation_bits, width.activation_bits};
    std::vector<Table::Cell> row = {
        {"Bits W", range_text(w)},
        {"Bits A", range_text(a)},
        {"Perplexity", perplexity ? fixed(*perplexity, 3) : ""},
        {"NLL/token", scored ? fixed(width.nll / static_cast<double>(width.tokens_scored), 4) : ""},
        {"Tokens", width.tokens_scored > 0 ? std::to_string(width.tokens_scored) : ""},
        {"Size", byte_size(width.size.total_bytes())},
        {"Linear layers", byte_size(width.size.linear_bytes)},
        {"Bits/weight", fixed(width.size.effective_bits, 2)},
        {"Compression", fixed(width.size.compression(), 2) + "x"},
        {"Forward BitOps", fixed(100.0 * width.forward_bitops_ratio, 2) + " %"}};
    if (width.map) row.push_back({"Map", width.map->name}), row.push_back({"Bits KV", range_text(width.map->kv)});
    table.add_row(row);
  }
  return table;
}

std::string to_markdown(const FinalReport& report) {
  std::string text = fmt::format("# {}\n\n", report.title);
  if (!report.summary.empty()) {
    Table facts({"", "Value"});
    for (const auto& [name, value] : report.summary) facts.add_row({{"", name}, {"Value", value}});
    text += facts.markdown() + "\n";
  }
  text += "## Held-out text at every width\n\n" + width_table(report.widths).markdown();
  const std::string reasons = failures(report.widths, "- ");
  if (!reasons.empty()) text += "\nWithout a perplexity:\n\n" + reasons;
  return text +
         "\nPerplexity is exp(NLL per token). Size counts packed codes, their scales, adapters and the unquantized\n"
         "parameters; Bits/weight is the mean over the linear layers' weights. Compression and Forward BitOps compare\n"
         "with the same model at 32 bits.\n";
}

Value to_value(const FinalReport& report) {
  Value object = report.details;
  Value::Array widths;
  for (const WidthResult& width : report.widths) widths.push_back(to_value(width));
  object.set("title", report.title);
  object.set("widths", Value::array(std::move(widths)));
  return object;
}

std::string write_final_report(const std::filesystem::path& dir, const FinalReport& report) {
  write_file_atomic(dir / "report.md", to_markdown(report));
  write_file_atomic(dir / "report.json", to_json(to_value(report), 2) + "\n");
  return width_table(report.widths).ascii() + failures(report.widths, "no perplexity at ");
}

}  // namespace qat
