#include "src/report/final_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "src/base/file.h"
#include "src/report/baseline_table.h"
#include "src/report/numbers.h"
#include "src/report/robustness_table.h"
#include "src/report/speed_table.h"
#include "src/report/task_tables.h"
#include "src/report/text_tables.h"

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

bool are_answers(const std::vector<WidthResult>& widths) {
  return std::any_of(widths.begin(), widths.end(), [](const WidthResult& width) { return width.answers.has_value(); });
}

// Lines "4 bits: reason" for the widths that have no result.
std::string failures(const std::vector<WidthResult>& widths, const char* before) {
  std::string text;
  for (const WidthResult& width : widths) {
    const std::string reason = width.failure();
    if (!reason.empty()) text += fmt::format("{}{}: {}\n", before, row_name(width), reason);
  }
  return text;
}

// Tasks, other texts or speed alone may have been asked for.
bool has_held_out(const std::vector<WidthResult>& widths) {
  return std::any_of(widths.begin(), widths.end(), [](const WidthResult& width) { return width.wants_held_out; });
}

std::vector<std::string> score_columns(bool answers) {
  if (answers) return {"Exact match", "F1", "Questions", "Loss/window"};
  return {"Perplexity", "NLL/token", "Tokens"};
}

std::string mean_nll(const WidthResult& width) {
  const bool scored = width.tokens_scored > 0 && std::isfinite(width.nll);
  return scored ? fixed(width.nll / static_cast<double>(width.tokens_scored), 4) : "";
}

std::vector<Table::Cell> text_cells(const WidthResult& width) {
  const std::optional<double> perplexity = width.perplexity();
  return {{"Perplexity", perplexity ? fixed(*perplexity, 3) : ""},
          {"NLL/token", mean_nll(width)},
          {"Tokens", width.tokens_scored > 0 ? std::to_string(width.tokens_scored) : ""}};
}

std::vector<Table::Cell> answer_cells(const WidthResult& width) {
  if (!width.answers) return {};
  return {{"Exact match", fixed(width.answers->exact_match, 2)},
          {"F1", fixed(width.answers->f1, 2)},
          {"Questions", std::to_string(width.answers->questions)},
          {"Loss/window", mean_nll(width)}};
}

Value to_value(const WidthResult& width) {
  const std::optional<double> perplexity = width.perplexity();
  const bool scored = width.tokens_scored > 0;
  Value object = Value::object({{"bit_width", width.weight_bits}, {"activation_bits", width.activation_bits}});
  if (width.answers) {
    object.set("exact_match", width.answers->exact_match);
    object.set("f1", width.answers->f1);
    object.set("questions", width.answers->questions);
  } else {
    Value perplexities = perplexities_value(width.texts);
    if (width.wants_held_out) perplexities.set("held_out", perplexity ? Value(*perplexity) : Value());
    object.set("perplexity", std::move(perplexities));
  }
  for (Value::Member& member : std::vector<Value::Member>{
           {"nll", scored ? Value(width.nll) : Value()},  // the writer makes null of what is not finite
           {"nll_per_token", scored ? Value(width.nll / static_cast<double>(width.tokens_scored)) : Value()},
           {"tokens_scored", width.tokens_scored},
           {"model_size_gb", static_cast<double>(width.size.total_bytes()) / 1e9},
           {"model_size_bytes", width.size.total_bytes()},
           {"linear_bytes", width.size.linear_bytes},
           {"adapter_bytes", width.size.adapter_bytes},
           {"other_bytes", width.size.other_bytes},
           {"effective_bits", width.size.effective_bits},
           {"mean_bits", width.size.mean_bits},
           {"compression_ratio", width.size.compression()},
           {"forward_bitops_ratio", width.forward_bitops_ratio}})
    object.set(member.key, std::move(member.value));
  if (width.kv_bytes > 0) object.set("kv_cache_bytes", width.kv_bytes);
  if (width.speed) object.set("speed", speed_value(*width.speed));
  if (width.robustness) object.set("robustness", robustness_value(*width.robustness));
  if (const auto worth = efficiency(width)) object.set("efficiency", *worth);
  if (!width.texts.empty()) object.set("texts", texts_value(width.texts));
  if (!width.tasks.empty()) {
    object.set("zero_shot", tasks_value(width.tasks));
    const double accuracy = mean_accuracy(width.tasks, ChoiceRule::kSum);
    const double per_bit = accuracy / width.size.effective_bits;
    object.set("accuracy_per_bit", std::isfinite(per_bit) ? Value(per_bit) : Value());
  }
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

double number_or_nan(const Value& value) {
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.as_double();
}

BitsRange range_of(const Value& bits) {
  return {.least = static_cast<int>(bits.as_array().at(0).as_int()),
          .most = static_cast<int>(bits.as_array().at(1).as_int())};
}

WidthResult width_of(const Value& value) {
  WidthResult width{.weight_bits = static_cast<int>(value.at("bit_width").as_int()),
                    .activation_bits = static_cast<int>(value.at("activation_bits").as_int()),
                    .nll = number_or_nan(value.at("nll")),
                    .tokens_scored = value.at("tokens_scored").as_int(),
                    .size = {.linear_bytes = value.at("linear_bytes").as_int(),
                             .adapter_bytes = value.at("adapter_bytes").as_int(),
                             .other_bytes = value.at("other_bytes").as_int(),
                             .effective_bits = value.at("effective_bits").as_double()},
                    .forward_bitops_ratio = value.at("forward_bitops_ratio").as_double()};
  width.size.full_bytes =
      std::llround(value.at("compression_ratio").as_double() * static_cast<double>(width.size.total_bytes()));
  if (value.find("exact_match") != nullptr)
    width.answers = AnswerFigures{.exact_match = value.at("exact_match").as_double(),
                                  .f1 = value.at("f1").as_double(),
                                  .questions = value.at("questions").as_int()};
  if (const Value* map = value.find("map"); map != nullptr)
    width.map = MapBits{.name = map->as_string(),
                        .weights = range_of(value.at("weight_bits_range")),
                        .activations = range_of(value.at("activation_bits_range")),
                        .kv = range_of(value.at("kv_bits_range"))};
  if (const Value* error = value.find("error"); error != nullptr) width.error = error->as_string();
  return width;
}

// How the tables beside the held-out one are written.
struct Format {
  std::string (*tasks)(const std::vector<WidthResult>&);
  std::string (*texts)(const std::vector<WidthResult>&);
  std::string (*changes)(const std::vector<WidthResult>&, std::size_t baseline);
  std::string (*robustness)(const std::vector<WidthResult>&);
  std::string (*speed)(const std::vector<WidthResult>&);
  const char *insights, *item;
};
constexpr Format kText{.tasks = task_tables_text,
                       .texts = text_tables_text,
                       .changes = change_text,
                       .robustness = robustness_text,
                       .speed = speed_text,
                       .insights = "What stands out\n",
                       .item = "  "};
constexpr Format kMarkdown{.tasks = task_tables_markdown,
                           .texts = text_tables_markdown,
                           .changes = change_markdown,
                           .robustness = robustness_markdown,
                           .speed = speed_markdown,
                           .insights = "## What stands out\n\n",
                           .item = "- "};
constexpr Format kLatex{.tasks = task_tables_latex,
                        .texts = text_tables_latex,
                        .changes = change_latex,
                        .robustness = robustness_latex,
                        .speed = speed_latex,
                        .insights = "% What stands out\n",
                        .item = "% "};

std::string extras(const FinalReport& report, const Format& format) {
  const std::vector<WidthResult>& widths = report.widths;
  std::string text = format.tasks(widths) + format.texts(widths);
  const auto baseline = baseline_of(widths, report.baseline);
  if (baseline && (has_tasks(widths) || has_texts(widths))) text += format.changes(widths, *baseline);
  text += format.robustness(widths) + format.speed(widths);
  if (!report.insights) return text;
  text += format.insights;
  for (const std::string& line : insights(widths)) text += format.item + line + "\n";
  return text + (format.item[0] == '-' ? "\n" : "");
}

}  // namespace

std::optional<double> WidthResult::perplexity() const {
  if (!error.empty() || tokens_scored <= 0 || answers) return std::nullopt;
  const double value = std::exp(nll / static_cast<double>(tokens_scored));
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

std::string WidthResult::failure() const {
  if (!error.empty()) return error;
  if (tokens_scored <= 0) return wants_held_out ? "no tokens were scored" : "";
  if (!std::isfinite(nll)) return "the loss is not finite";
  if (!answers && !perplexity()) return "the perplexity is too large for a number";
  return "";
}

std::vector<Table::Cell> bits_cells(const WidthResult& width) {
  if (!width.map)
    return {{"Bits", width_name(width.weight_bits)},
            {"W", width_name(width.weight_bits)},
            {"A", width_name(width.activation_bits)},
            {"KV", width_name(width.kv_bits)}};
  return {{"Bits", width.map->name},
          {"W", range_text(width.map->weights)},
          {"A", range_text(width.map->activations)},
          {"KV", range_text(width.map->kv)}};
}

Table width_table(const std::vector<WidthResult>& widths) {
  const bool answers = are_answers(widths);
  const bool maps =
      std::any_of(widths.begin(), widths.end(), [](const WidthResult& one) { return one.map.has_value(); });
  std::vector<std::string> columns = {"Bits W", "Bits A"};
  if (maps) columns = {"Map", "Bits W", "Bits A", "Bits KV"};
  for (std::string& column : score_columns(answers)) columns.push_back(std::move(column));
  for (const char* column : {"Size", "Linear layers", "Bits/weight", "Compression", "Forward BitOps"})
    columns.emplace_back(column);
  Table table(std::move(columns));
  for (const WidthResult& width : widths) {
    const BitsRange w = width.map ? width.map->weights : BitsRange{width.weight_bits, width.weight_bits};
    const BitsRange a = width.map ? width.map->activations : BitsRange{width.activation_bits, width.activation_bits};
    std::vector<Table::Cell> row = {{"Bits W", range_text(w)},
                                    {"Bits A", range_text(a)},
                                    {"Size", byte_size(width.size.total_bytes())},
                                    {"Linear layers", byte_size(width.size.linear_bytes)},
                                    {"Bits/weight", fixed(width.size.effective_bits, 2)},
                                    {"Compression", fixed(width.size.compression(), 2) + "x"},
                                    {"Forward BitOps", fixed(100.0 * width.forward_bitops_ratio, 2) + " %"}};
    for (Table::Cell& cell : answers ? answer_cells(width) : text_cells(width)) row.push_back(std::move(cell));
    if (width.map) row.push_back({"Map", width.map->name}), row.push_back({"Bits KV", range_text(width.map->kv)});
    table.add_row(row);
  }
  return table;
}

std::string final_heading(const FinalReport& report) {
  return fmt::format("Held-out {} at every width", are_answers(report.widths) ? "questions" : "text");
}

std::string final_notes(const FinalReport& report) {
  const bool answers = are_answers(report.widths);
  std::string text;
  const std::string reasons = failures(report.widths, "- ");
  if (!reasons.empty()) text += fmt::format("Without a {}:\n\n", answers ? "loss" : "perplexity") + reasons + "\n";
  return text +
         (answers ? "Exact match and F1 are percentages, as SQuAD's programs compute them."
                  : "Perplexity is exp(NLL per token).") +
         " Size counts packed codes, their scales, adapters and the unquantized\n"
         "parameters; Bits/weight is the mean over the linear layers' weights. Compression and Forward BitOps compare\n"
         "with the same model at 32 bits.\n";
}

std::string to_markdown(const FinalReport& report) {
  std::string text = fmt::format("# {}\n\n", report.title);
  if (!report.summary.empty()) {
    Table facts({"", "Value"});
    for (const auto& [name, value] : report.summary) facts.add_row({{"", name}, {"Value", value}});
    text += facts.markdown() + "\n";
  }
  text += extras(report, kMarkdown);
  if (!has_held_out(report.widths)) return text;
  return text + fmt::format("## {}\n\n", final_heading(report)) + width_table(report.widths).markdown() + "\n" +
         final_notes(report);
}

Value to_value(const FinalReport& report) {
  Value object = report.details;
  Value::Array widths;
  const auto baseline = baseline_of(report.widths, report.baseline);
  for (const WidthResult& width : report.widths) {
    Value one = to_value(width);
    if (baseline && (!width.tasks.empty() || !width.texts.empty()))
      one.set("change", change_value(width, report.widths[*baseline]));
    if (report.insights) one.set("insights", Value::array(insights(width)));
    widths.push_back(std::move(one));
  }
  object.set("title", report.title);
  Value facts = Value::object();
  for (const auto& [name, value] : report.summary) facts.set(name, value);
  object.set("summary", std::move(facts));
  object.set("widths", Value::array(std::move(widths)));
  return object;
}

FinalReport final_report_of(const Value& report) {
  FinalReport found{.title = report.at("title").as_string()};
  if (const Value* facts = report.find("summary"); facts != nullptr)  // earlier programs wrote none
    for (const Value::Member& fact : facts->as_object()) found.summary.emplace_back(fact.key, fact.value.as_string());
  for (const Value& width : report.at("widths").as_array()) found.widths.push_back(width_of(width));
  return found;
}

std::string to_text(const FinalReport& report) {
  std::string text = extras(report, kText);
  if (!has_held_out(report.widths)) return text;
  return text + width_table(report.widths).ascii() +
         failures(report.widths, are_answers(report.widths) ? "no loss at " : "no perplexity at ");
}

std::string write_final_report(const std::filesystem::path& dir, const FinalReport& report) {
  write_file_atomic(dir / "report.md", to_markdown(report));
  write_file_atomic(dir / "report.json", to_json(to_value(report), 2) + "\n");
  if (has_tasks(report.widths) || has_texts(report.widths)) {
    write_file_atomic(dir / "tables.txt", extras(report, kText));
    write_file_atomic(dir / "tables.tex", extras(report, kLatex));
  }
  return to_text(report);
}

}  // namespace qat
