// How large and how fast a model is at each width, and what may be concluded from it.
#pragma once

#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/report/final_report.h"
#include "src/report/table.h"

namespace qat {

// One row a width or map of those whose speed was measured: tokens/s, milliseconds a pass, memory. efficiency is
// tokens/s / (MiB of the model * max(perplexity, 1)), the perplexity the first there is.
Table speed_table(const std::vector<WidthResult>& widths);
// How the time divides among the layers, those of all blocks together: milliseconds a pass, and the share of all, at
// each width. No rows where layers were not timed.
Table layer_time_table(const std::vector<WidthResult>& widths);
std::string speed_text(const std::vector<WidthResult>& widths);      // empty: no speed was measured
std::string speed_markdown(const std::vector<WidthResult>& widths);  // likewise
std::string speed_latex(const std::vector<WidthResult>& widths);     // likewise
Value speed_value(const SpeedFigures& speed);

// The first perplexity that a row has: of the held-out text, or else of the first text that has one.
std::optional<double> first_perplexity(const WidthResult& width);
std::optional<double> efficiency(const WidthResult& width);

// What stands out of one width's results, by fixed thresholds, each named in its sentence.
std::vector<std::string> insights(const WidthResult& width);
// Of all widths, as lines "8 bits: ...".
std::vector<std::string> insights(const std::vector<WidthResult>& widths);

}  // namespace qat
