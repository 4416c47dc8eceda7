// What a run achieved, width by width or map by map: report.md and report.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "src/base/json.h"
#include "src/report/model_size.h"
#include "src/report/robustness_figures.h"
#include "src/report/table.h"
#include "src/report/task_figures.h"

namespace qat {

// The least and the most that layers or blocks of a map have.
struct BitsRange {
  int least = 32;
  int most = 32;
};

// A map of layers' widths, as a row of the table.
struct MapBits {
  std::string name;
  BitsRange weights, activations, kv;
};

// How questions were answered.
struct AnswerFigures {
  double exact_match = 0.0;  // percent
  double f1 = 0.0;           // percent
  std::int64_t questions = 0;
};

struct WidthResult {
  int weight_bits = 32;  // of a map what it counts as, as are the next two
  int activation_bits = 32;
  int kv_bits = 32;
  std::optional<MapBits> map;      // nothing: one width
  double nll = 0.0;                // sum over the scored tokens, nats; not finite: an error
  std::int64_t tokens_scored = 0;  // of questions, windows
  bool wants_held_out = true;      // else held-out text or questions were not asked for
  std::optional<AnswerFigures> answers;
  std::vector<TaskFigures> tasks;
  std::vector<TextFigures> texts;               // beside the held-out one
  std::optional<SpeedFigures> speed;            // where it was measured
  std::optional<RobustnessFigures> robustness;  // likewise
  std::int64_t kv_bytes = 0;                    // keys and values of a sequence as long as the model reads
  std::string error;                            // why there is no perplexity; empty: nothing went wrong
  SizeReport size;
  double forward_bitops_ratio = 1.0;  // relative to 32 bits, over the whole model

  // exp(nll / tokens_scored); nothing where that is not a finite number, and for questions.
  std::optional<double> perplexity() const;
  // Why there is no perplexity, or no answer; empty if there is, and where it was not asked for.
  std::string failure() const;
};

struct FinalReport {
  std::string title;                                         // heading of report.md
  std::vector<std::pair<std::string, std::string>> summary;  // facts of the run for people: steps, tokens, time, ...
  Value details = Value::object();                           // facts of the run for programs: members of report.json
  std::vector<WidthResult> widths;
  std::string baseline;   // the row that others are compared with; empty: that of 32 bits, or the widest
  bool insights = false;  // say what stands out, by fixed thresholds
};

// What a row of a table is of: columns "Bits" (a width or a map's name), "W", "A" and "KV".
std::vector<Table::Cell> bits_cells(const WidthResult& width);

// One row a width or map, in the order given, of perplexities or of how questions were answered. "-" where there is
// none; the reason stands below the table.
Table width_table(const std::vector<WidthResult>& widths);

std::string to_markdown(const FinalReport& report);
// Of its table: the heading above, and what stands below, reasons for missing values first.
std::string final_heading(const FinalReport& report);
std::string final_notes(const FinalReport& report);
Value to_value(const FinalReport& report);
// The report that to_value() made this of, without `details`; throws an error of the value's source.
FinalReport final_report_of(const Value& report);

// The tables for the console, with the reasons for missing values below them.
std::string to_text(const FinalReport& report);

// Writes `dir`/report.md and `dir`/report.json, and of tasks and texts tables.txt and tables.tex, each whole or not at
// all, and returns to_text().
std::string write_final_report(const std::filesystem::path& dir, const FinalReport& report);

}  // namespace qat
